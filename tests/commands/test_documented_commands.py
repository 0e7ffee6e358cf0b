"""Every command that stands in README, CONTRIBUTING, the Makefile, config headers and docstrings.

All are parsed by the real parsers, and the configs and keys that they name exist. Of every kind of command (its name
and the options that are given) one is run in short: the same options, with values that make it small. A command of a
kind that is in none of the tables of `short_forms.py` fails.
"""

import importlib
import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import constant_depth
import documented
import numpy as np
import pytest
import small_checkpoints
import test_visualize
from documented import ROOT, documented_commands
from mmengine.registry import MODELS
from PIL import Image
from short_forms import ELSEWHERE, NOT_HERE, SHORT
from test_cache_teacher import no_sam  # noqa: F401 - a fixture of all tests: SAM is replaced
from test_track import root as davis  # noqa: F401 - a fixture

from pe_spatial.backbones import VARIANTS
from pe_spatial.commands.benchmark import segmentation
from pe_spatial.commands.shell import COMMANDS, parse, run_command, run_module
from pe_spatial.training.config import load_config
from pe_spatial.training.planner import planning

TOOLS = {
    f"tools/dev/{name}.py"
    for name in (
        "constant_depth",
        "draw_floors",
        "make_demo_encoder",
        "make_gallery",
        "make_notebooks",
        "measure_alignment",
        "measure_annotations",
        "measure_cached_features",
        "measure_factory",
        "measure_fine_maps",
        "measure_label_errors",
        "measure_large_photographs",
        "measure_loading",
        "measure_opening",
        "measure_planner",
        "measure_tuning",
        "readability",
        "real_encoder",
        "tutorials",
    )
}


THEIRS = ("detectron2/tools/lazyconfig_train_net.py", "<detectron2>/tools/lazyconfig_train_net.py")
COMMANDS_IN_DOCUMENTS = documented_commands()


def kind(command):
    """Name, what a benchmark or a config command does, and the options."""
    words = list(command.arguments)
    names = [command.name] + words[:1] * (command.name in ("benchmark", "configs"))
    options = sorted({word.partition("=")[0] for word in words if word.startswith("--")})
    return " ".join([*names, *options])


def is_mention(command):
    """`pe-spatial check` in running text: the name of a command, not a call."""
    return not command.arguments and command.name in {*COMMANDS, "NAME"} - {"env"}


CALLS = [command for command in COMMANDS_IN_DOCUMENTS if not is_mention(command)]
EXAMPLES = {(command.name, command.arguments): command for command in CALLS}  # each text once


def module_of(name):
    if name in TOOLS:
        return importlib.import_module(Path(name).stem)
    return importlib.import_module(f"pe_spatial.commands.{re.sub('[- ]', '_', name)}")


@cache
def config_named(name, *overrides):
    return load_config(name, overrides)


# --- all of them ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", EXAMPLES.values(), ids=lambda command: command.place.replace(" ", "_")[:60])
def test_a_command_parses_and_names_what_exists(command):
    if command.name in ("--help", *THEIRS):
        return
    options, parser = parse(command.name, module_of(command.name), list(command.arguments))
    overrides = getattr(options, "overrides", None) or []
    name = getattr(options, "config", None)
    if name not in (None, "...", "CONFIG", "NAME"):
        config_named(name, *overrides)
    elif command.name == "configs" and options.subcommand != "list" and options.name != "NAME":
        config_named(options.name, *overrides)
    assert all(re.match(r"[\w.]+=", override) for override in overrides)


def test_every_kind_of_command_is_run_or_stands_in_a_list():
    """A command that is new, in a document, is added to one of the tables of `short_forms.py`."""
    kinds = {kind(command): command.place for command in CALLS}
    tables = [*SHORT, *ELSEWHERE, *NOT_HERE]
    assert {name: place for name, place in kinds.items() if name not in tables} == {}
    assert len(tables) == len(set(tables))
    # and what no document has any more leaves them
    assert [name for name in tables if name not in kinds] == []


def test_what_runs_elsewhere_does():
    for place in {*ELSEWHERE.values()}:
        path, _, test = place.partition("::")
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), place


def test_a_new_command_would_be_found(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(
        "text with `pe-spatial track --mot` in it\n```bash\nexport X=1\n"
        "A=b pe-spatial eval RUN --flip \\\n    x=1   # remark\npython tools/train_net.py --config C [key=value …]\n"
        "torchrun --nproc-per-node 8 -m pe_spatial predict --shard 1/2\n```\n```python\npe-spatial no\n```\n"
        "1. a step:\n\n    ```sh\n    pe-spatial score --help\n    ```\n\n    pe-spatial export RUN   # indented\n"
    )
    found = [
        command[1:]
        for place, text in documented._of_markdown(tmp_path / "README.md")
        for command in documented._read(place, text)
    ]
    assert found == [
        ("track", ("--mot",)),
        ("eval", ("RUN", "--flip", "x=1")),
        ("train", ("--config", "C")),
        ("predict", ("--shard", "1/2")),
        ("score", ("--help",)),
        ("export", ("RUN",)),
    ]
    with pytest.raises(AssertionError, match="calls nothing that is known"):
        list(documented._read("here", "python setup.sh"))


def test_every_line_of_a_shell_block_is_known():
    """Ours, other programs that set things up, and keys of configs, which load."""
    others = r"make |git clone |less |pip install |pip wheel |source |export |SAM2_BUILD_CUDA=0 pip |#"
    unknown = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs/guides").glob("*.md"))):
        lines = path.read_text(encoding="utf-8").split("\n")
        for place, text in documented._of_markdown(path):
            follows = lines[int(place.partition(":")[2]) - 2].endswith("\\")
            if not (documented.PROGRAM.match(text) or re.match(others, text) or not text or follows):
                unknown.append(text)
    keys = [shlex.split(text, comments=True) for text in unknown]
    assert [key for key in keys if len(key) != 1 or not re.match(r"model\.[\w.]+=", key[0])] == []
    for (key,) in keys:
        name = "demo/mask_rcnn_tiny_shapes.yaml" if "roi_heads" in key else "demo/deta_tiny_shapes.yaml"
        MODELS.build(load_config(name, [key, "model.data_preprocessor.pad_to=null"]).model)


def test_targets_of_make_and_extras_of_pip_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    optional = (ROOT / "setup.cfg").read_text().partition("extras_require]")[2]
    extras = set(re.findall(r"^(\w+) =$", optional, re.MULTILINE))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets, path
        assert named or path.parent != ROOT
        for group in re.findall(r"(?:'\.|pe_spatial)\[([\w,]+)\]", text):
            assert set(group.split(",")) <= extras, group


# --- one of each kind -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def place(davis, finished, tmp_path_factory):  # noqa: F811
    """A folder with data, checkpoints and a finished run, small, under the names of the short commands."""
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(davis, folder / "davis")
    shutil.copy(finished[0], folder / "toy.yaml")
    shutil.copytree(finished[1], folder / "run")
    shutil.copytree(finished[1], folder / "interrupted")
    small_checkpoints.save_detector(folder / "model.pth")
    small_checkpoints.save_input(folder / "photos", pictures=2, frames=2)
    (folder / "windows.yaml").write_text("_base_: demo/seg_linear_tiny_shapes.yaml\nmodel: {window: {size: 64}}\n")
    (folder / "val.txt").write_text("first\nsecond\n")
    (folder / "list.txt").write_text(f"{folder / 'photos/a1.png'}\n")
    mask = folder / "davis/Annotations/480p/first/00000.png"
    shutil.copy(mask, folder / "first.png")
    Image.fromarray(np.kron([[1, 0], [0, 2]], np.ones((8, 12))).astype(np.uint8)).save(folder / "small.png")
    (folder / "shards").mkdir()
    shutil.make_archive(str(folder / "shards/0"), "tar", folder, "photos/more")
    drawn = ["--output", str(folder / "demo/data"), "--images", "12", "--image-size", "32", "--no-photographs"]
    assert run_command("demo", drawn) == 0
    return folder


@pytest.mark.parametrize("name", SHORT)
def test_it_runs(name, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setitem(VARIANTS, "tiny", test_visualize.TINY)
    monkeypatch.setattr(segmentation, "in_own_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the benchmark of memory lifts it
    every = planning.variations
    monkeypatch.setattr(planning, "variations", lambda config: list(every(config))[:2])  # enough for a table
    command, arguments = name.split()[0], shlex.split(SHORT[name])
    options = {word for word in name.split() if word.startswith("--")}
    assert options <= set(arguments), "a short form has the options of its kind"
    if command in ("train", "eval"):  # mmengine keeps loggers by name: no two runs of a process may share it
        arguments.append(f"experiment_name=documented{list(SHORT).index(name)}")
    if command in TOOLS:
        assert run_module(constant_depth, command, arguments) == 0
    else:
        assert run_command(command, arguments) == 0
