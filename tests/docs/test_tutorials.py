"""All blocks of the tutorials run, in their order, in an empty folder, as a reader would run them.

Numbers are made smaller by `SHORTER`, which is all that differs from the pages. Blocks that need weights or a GPU are
left out: `LEFT_OUT` counts them.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tutorials
from tutorials import BlockError, read_blocks, run_block, shortened

from pe_spatial.commands.shell import run_module

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted(path for path in (ROOT / "docs/tutorials").glob("*.md") if path.stem != "index")

# tutorial -> what is written there and what is run here; "" is of all
SHORTER = {
    "": {"--images 240": "--images 12", "--images 60": "--images 12", "--image-size 128": "--image-size 64"}
    | {"--epochs 10": "--iterations 1", "--epochs 8": "--iterations 1", "--epochs 6": "--iterations 1"}
    | {"--epochs 15": "--iterations 1", "--epochs 4": "--iterations 1"},
    "tracking": {"--frames 20": "--frames 4", "--video-size 240 426": "--video-size 120 213"}
    | {"100,60,180,150": "50,30,90,75", "(213, 120)": "(100, 60)"},
    "features": {"--iterations 60": "--iterations 2"},
    "words": {"--iterations 60": "--iterations 2", "--limit 40": "--limit 4", "--limit 8": "--limit 2"},
    "export": {"~/pe_spatial": str(ROOT)},
}
# tutorial -> how many of its blocks need what a test does not have
LEFT_OUT = {
    "alignment": {"weights": 1},
    "depth": {"weights": 1},
    "detection": {"weights": 1},
    "export": {},
    "features": {"weights": 1},
    "instances": {"weights": 1},
    "panoptic": {"weights": 1},
    "segmentation": {"weights": 1},
    "tracking": {"weights": 1},
    "words": {"weights": 2},
}
# tutorial -> the package that it needs beside those of every installation
NEEDS = {
    "export": "onnxruntime",
    "features": "ftfy",
    "panoptic": "mmseg",
    "segmentation": "mmseg",
    "words": "ftfy",
}


def replacements(name):
    """What is made smaller in a tutorial; and a port that is free."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return SHORTER[""] | SHORTER.get(name, {}) | {"8123": str(probe.getsockname()[1])}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables with which `pe-spatial` and `python` are forks of one process; see quick_commands.py."""
    folder = tmp_path_factory.mktemp("programs")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables |= {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PE_SPATIAL_CACHE": str(folder / "cache"),
    }
    program = [sys.executable, str(Path(__file__).with_name("quick_commands.py")), str(folder)]
    with subprocess.Popen(program, env=variables, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout.readline() == "ready\n"
        yield variables | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": ""}
        server.terminate()


@pytest.mark.tutorials
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_start_to_end(path, tmp_path, environment):
    if package := NEEDS.get(path.stem):
        pytest.importorskip(package)
    for block in read_blocks(path):
        if not block.needs:
            run_block(shortened(block, replacements(path.stem)), tmp_path, environment)


def test_what_is_made_shorter_stands_in_the_tutorials():
    everything = "".join(path.read_text(encoding="utf-8") for path in TUTORIALS)
    assert [text for text in SHORTER[""] if text not in everything] == []
    for name, texts in SHORTER.items():
        page = (ROOT / "docs/tutorials" / f"{name}.md").read_text(encoding="utf-8") if name else everything
        assert [text for text in texts if text not in page] == [], name


def test_blocks_that_are_left_out_are_counted():
    found = {}
    for path in TUTORIALS:
        needs = [block.needs for block in read_blocks(path) if block.needs]
        found[path.stem] = {need: needs.count(need) for need in needs}
    assert found == LEFT_OUT


def test_every_tutorial_says_who_needs_it_and_shows_pictures_that_exist():
    for path in TUTORIALS:
        text = path.read_text(encoding="utf-8")
        for opening in ("**Who needs this:**", "**What you will have:**", "**Time:**", "**What you need:**"):
            assert f"\n{opening} " in text, (path.name, opening)
        assert len([block for block in read_blocks(path) if block.message]) == 3, path.name
    images = ROOT / "docs/tutorials/images"
    everything = "".join(path.read_text(encoding="utf-8") for path in TUTORIALS)
    for image in images.iterdir():
        assert f"(images/{image.name})" in everything, image.name
        assert image.stat().st_size < 60_000, image.name


def test_the_command_tells_output_and_seconds(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("```bash\necho first\n```\n<!-- needs: weights -->\n```bash\nexit 1\n```\n")
    assert run_module(tutorials, "tutorials.py", [str(page), "--folder", str(tmp_path / "empty")]) == 0
    told = capsys.readouterr().out
    assert "first\n" in told and "left out: needs weights" in told and "s of the processor in all" in told


def test_a_block_that_ends_otherwise_than_the_page_says_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```bash\nexit 3\n```\n<!-- fails -->\n```bash\necho 'one  two'; exit 2\n```\n```text\none … three\n```\n"
        "<!-- needs: gpu -->\n```python\nprint(1)\n```\n<!-- fails -->\n```bash\ntrue\n```\n```text\nno\n```\n"
    )
    first, second, third, fourth = read_blocks(page)
    assert (first.place, first.needs, third.needs, third.language) == ("page.md:2", None, "gpu", "python")
    with pytest.raises(BlockError, match="page.md:2: exit status 3"):
        run_block(first, tmp_path)
    with pytest.raises(BlockError, match="does not print 'one … three' but"):
        run_block(second, tmp_path)
    with pytest.raises(BlockError, match="exit status 0"):
        run_block(fourth, tmp_path)
    assert run_block(shortened(third, {"1": "'short'"}), tmp_path) == "short\n"
    page.write_text("<!-- fails -->\n```bash\nfalse\n```\n")
    with pytest.raises(ValueError, match=r"page.md:2: .* needs a text block"):
        read_blocks(page)
