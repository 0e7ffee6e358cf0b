"""The official numbers against ours, and the table that says so."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pe_spatial.commands.benchmark import fidelity
from pe_spatial.commands.benchmark.fidelity import COMPARISONS, GOLDEN
from pe_spatial.commands.benchmark.fidelity.rule import Difference, largest_difference, unequal
from pe_spatial.commands.benchmark.fidelity.table import BEGIN, END, figure
from pe_spatial.commands.shell import run_command

DOCUMENT = Path(__file__).parents[2] / "docs/measurements/fidelity.md"
TESTS = Path(__file__).parents[1]


@cache
def lines_of(name):
    with torch.no_grad():
        return COMPARISONS[name].compare(GOLDEN)


@pytest.mark.parametrize("name", COMPARISONS)
def test_our_numbers_are_the_official_ones(name):
    assert not [line for line in lines_of(name) if not line.passed]


def test_the_table_of_the_page_is_what_the_command_writes():
    """But for the figures, which differ by a little from machine to machine, and must pass."""
    table = DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("|")]
    lines = [line for name in COMPARISONS for line in lines_of(name)]
    expected = [[line.what, f"{line.numbers:,}", figure(line.allowed, line.unit)] for line in lines]
    assert [[what, numbers, allowed] for what, numbers, _, allowed in rows[2:]] == expected
    assert not [row for row in rows if "**" in row[2]]
    assert re.search(r"fidelity`: 20\d\d-\d\d-\d\d, pe_spatial \S+, torch \S+, torchvision \S+, CPU", table)


def test_every_golden_file_is_compared():
    """By the command, or by a test that names it."""
    texts = [path.read_text() for path in TESTS.rglob("*.py")]
    for name in fidelity.unread_files(GOLDEN):
        stem = name.partition(".")[0]
        assert any(name in text or f'"{stem}"' in text for text in texts), name


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture
def davis(tmp_path):
    """A folder with the golden file of DAVIS's measures alone, and one of its numbers changed by `spoil`."""
    folder = tmp_path / "golden"
    folder.mkdir()
    data = dict(np.load(GOLDEN / "davis_metric.npz"))

    def save(change=0.0):
        np.savez(folder / "davis_metric.npz", **{**data, "J": data["J"] + change * (np.arange(len(data["J"])) == 1)})
        return folder

    return save


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    return path


def run(*arguments):
    return run_command("benchmark", ["fidelity", "--threads", "1", *map(str, arguments)])


def test_a_number_that_differs_is_named(davis, capsys):
    assert run("--golden", davis(change=2e-6)) == 1
    shown = capsys.readouterr().out
    assert "too different: DAVIS: J: 2·10⁻⁶, 1·10⁻⁶ passes" in shown and "| DAVIS: J | 6 | **2·10⁻⁶** |" in shown
    assert run("--golden", davis(change=5e-7)) == 0


def test_what_cannot_be_measured_is_named(davis, capsys):
    (davis() / "tokenizer.json").write_text("{}")
    assert run("--golden", davis()) == 0
    shown = capsys.readouterr().out
    assert "lacks maskrcnn_coco.npz, maskrcnn_coco_keys.json, maskrcnn_coco_anchor_deltas.npz" in shown
    assert "not read: tokenizer.json" in shown and "| DAVIS: F | 6 | 0 |" in shown


def test_the_table_is_written_between_its_marks(davis, document, monkeypatch):
    monkeypatch.setattr(fidelity, "COMPARISONS", {"davis": COMPARISONS["davis"]})
    for _ in range(2):
        assert run("--golden", davis(), "--document", document) == 0
        text = document.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{BEGIN}\n\n| compared") and text.endswith(f".\n\n{END}\nafter\n")
        assert text.count("DAVIS: J") == 1 and "old" not in text


def test_an_incomplete_table_is_not_written(davis, document, capsys):
    before = document.read_bytes()
    assert run("--golden", davis(), "--document", document) == 2
    assert "the table would be incomplete; it is not written" in capsys.readouterr().err
    assert document.read_bytes() == before


@pytest.mark.parametrize("text", ["", f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_document_without_the_marks_is_left_alone(davis, document, monkeypatch, capsys, text):
    monkeypatch.setattr(fidelity, "COMPARISONS", {"davis": COMPARISONS["davis"]})
    document.write_text(text, encoding="utf-8")
    assert run("--golden", davis(), "--document", document) == 2
    assert "has no place for the table; put these two lines" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == text


def test_an_installed_package_has_no_golden_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fidelity, "GOLDEN", tmp_path / "gone")
    assert run() == 2
    assert "an installed package has no golden files; give their folder with --golden" in capsys.readouterr().err
    for folder, message in ((tmp_path / "gone", "is not a folder"), (tmp_path, "has no complete set of golden files")):
        assert run("--golden", folder) == 2
        assert message in capsys.readouterr().err


def test_a_damaged_file_is_named(davis, capsys):
    path = davis() / "davis_metric.npz"
    whole = path.read_bytes()
    flipped = whole[:300] + bytes([whole[300] ^ 255]) + whole[301:]
    for content in (whole[:1000], b"", b"text", flipped):
        path.write_bytes(content)
        assert run("--golden", path.parent) == 2
        assert "davis_metric.npz: not a readable .npz file" in capsys.readouterr().err
    np.savez(path, J=np.ones(3))
    assert run("--golden", path.parent) == 2
    assert "davis_metric.npz: has no array 'shape'; it is of another version" in capsys.readouterr().err


# --- differences ------------------------------------------------------------------------------------------------------
def test_differences():
    ones = np.ones((2, 3))
    pairs = [(torch.ones(2, 3), ones), (torch.tensor([1.0, 2.5]), np.array([1.0, 2.0]))]
    assert largest_difference("", pairs, 0.1) == Difference("", 8, 0.5, 0.1)
    for wrong in (torch.full((2, 3), torch.nan), torch.ones(3, 2), torch.ones(1)):
        assert not largest_difference("", [(wrong, ones), (ones, ones)], 1e9).passed
    assert unequal("", [(torch.tensor([1, 2]), np.array([1, 3]))]).largest == 1
    assert unequal("", [(torch.tensor([1, 2, 3]), np.array([1, 3]))]).largest == 2


def test_figures():
    shown = [figure(value) for value in (0, 1, 0.05, 0.0047, 9.6e-5, 3.2e-12, np.inf)]
    assert shown == ["0", "1", "0.05", "0.0047", "1·10⁻⁴", "3·10⁻¹²", "inf"]
    assert figure(2, "px") == "2 px"
