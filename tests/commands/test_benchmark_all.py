"""The benchmark of all: it runs the others, turns their reports into one table, and names what it could not measure."""

import json
import sys
from argparse import Namespace

import pytest
from mmengine.registry import DefaultScope

from pe_spatial.commands.benchmark import SUBCOMMANDS, coco, features
from pe_spatial.commands.benchmark import all as benchmark
from pe_spatial.commands.benchmark.all import BEGIN, END, markdown, summary
from pe_spatial.commands.benchmark.comparisons import COMPARISONS, Comparison, Figure, of_coco
from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import MissingPackage


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(features, "_SIZE", (80, 160))


def run(*arguments):
    return run_command("benchmark", ["all", "--device", "cpu", "--threads", "1", *map(str, arguments)])


def rows_of(path):
    return {row["row"]: row for row in json.loads(path.read_text())["rows"]}


# --- the whole --------------------------------------------------------------------------------------------------------
def test_all_run_in_short(tmp_path, capsys):
    pytest.importorskip("timm")
    scopes = dict(DefaultScope._instance_dict)
    assert run("--quick", "--repeats", 1, "--json", tmp_path / "all.json") == 0
    rows = rows_of(tmp_path / "all.json")
    assert list(rows) == [row for entry in COMPARISONS if entry.quick for row in entry.rows]
    assert not [row for row in rows.values() if "not_measured" in row]
    assert all(row["ratio"] > 0 and row["ours"] > 0 for row in rows.values())
    assert dict(DefaultScope._instance_dict) == scopes  # mmseg would leave its own
    shown = capsys.readouterr().out
    assert "| COCO's average precision of boxes | pycocotools | **" in shown and "do not quote them as speeds" in shown


def test_repetitions_turn_their_order_and_give_the_spread(tmp_path, capsys):
    chosen = "tracking,coco"
    assert run("--quick", "--repeats", 3, "--only", chosen, "--json", tmp_path / "all.json") == 0
    shown = capsys.readouterr().out
    told = [line.partition(",")[0] for line in shown.splitlines() if line.endswith(" of 3")]
    assert told == ["tracking", "coco", "coco", "tracking", "tracking", "coco"]
    for row in rows_of(tmp_path / "all.json").values():
        assert len(row["ratios"]) == 3 and [row[key] for key in ("lowest", "ratio", "highest")] == sorted(row["ratios"])


def test_a_partner_that_is_missing_is_a_row_that_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert run("--quick", "--repeats", 2, "--only", "encoder-T,coco", "--json", tmp_path / "all.json") == 0
    rows = rows_of(tmp_path / "all.json")
    assert rows["PE-Spatial-T16-512, one picture"]["not_measured"].startswith("timm is not installed")
    assert len(rows["COCO's average precision of boxes"]["ratios"]) == 2
    shown = capsys.readouterr().out
    assert "| PE-Spatial-T16-512, one picture | not measured: timm is not installed" in shown
    assert shown.count("encoder-T,") == 1  # it is not tried again


@pytest.mark.parametrize("error", [MissingPackage("no partner"), ImportError("no partner")])
def test_what_a_benchmark_says_is_missing_stands_in_all_of_its_rows(error, monkeypatch):
    def raises(_):
        raise error

    monkeypatch.setattr(coco, "run", raises)
    entry = Comparison("coco", "coco", "", "", ("a", "b"), of_coco)
    options = Namespace(repeats=2, quick=True, device="cpu", threads=1)
    assert benchmark.measure_all([entry], options, "") == {"a": "no partner", "b": "no partner"}


def test_the_table_is_written_between_its_marks(tmp_path, monkeypatch, capsys):
    small = [entry._replace(arguments=entry.quick) for entry in COMPARISONS if entry.name == "coco"]
    monkeypatch.setattr(benchmark, "COMPARISONS", small)
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert run("--repeats", 2, "--document", page) == 0
    text = page.read_text()
    assert (
        text.startswith(f"before\n{BEGIN}\n\n| what |") and text.endswith(f"\n\n{END}\nafter\n") and "old" not in text
    )
    assert (
        "threads 1, repetitions 2, load of the machine before and after" in text
        and "do not quote them as speeds" not in text
    )
    assert run("--repeats", 1, "--document", page, "--quick") == 2
    assert "--quick measures tiny sizes" in capsys.readouterr().err and page.read_text() == text


def test_an_unknown_comparison_is_named(capsys):
    assert run("--only", "encoder-X") == 2
    assert "--only encoder-X: there is no such comparison; did you mean 'encoder-" in capsys.readouterr().err


def test_every_comparison_is_a_command_that_parses():
    assert len({entry.name for entry in COMPARISONS}) == len(COMPARISONS)
    rows = [row for entry in COMPARISONS for row in entry.rows]
    assert len(set(rows)) == len(rows)
    for entry in COMPARISONS:
        for text in filter(None, (entry.arguments, entry.quick)):
            parser = CommandParser(entry.subcommand, "")
            SUBCOMMANDS[entry.subcommand](parser)
            parser.parse_command(text.split())


def test_the_median_stands_in_the_table():
    figures = [Figure("theirs", ratio, ratio * 10, "ms") for ratio in (1.0, 4.0, 2.0)]
    assert summary(figures)["ratio"] == 2 and summary(figures)["ours"] == 20
    table = markdown({"x": figures, "y": "no theirs"}, {"today": "", "threads": 2})
    assert "| x | theirs | **2** | 1 … 4 | 20 ms |" in table
    assert "| y | not measured: no theirs | | | |" in table and table.endswith("all`: today, threads 2.")


# --- the benchmarks that came with it ---------------------------------------------------------------------------------
def test_both_score_the_same_boxes_alike(tmp_path):
    options = ["--images", "20", "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "coco.json")]
    assert run_command("benchmark", ["coco", *options]) == 0
    report = json.loads((tmp_path / "coco.json").read_text())
    assert report["difference"] <= 1e-12 and report["ratio"] > 0
    assert (report["images"], report["objects"], report["detections"]) == (20, 140, 2000)
    scores = coco.our_scores(*coco.synthetic_boxes(20, 7, 100, 80))
    assert 0.05 < scores[0] < scores[1] < 0.95  # neither nothing nor everything is found


def test_a_folder_is_detected_as_by_the_model(tmp_path):
    small = ["--config", "demo/mask_rcnn_tiny_shapes.yaml", "--limit", "2", "--rounds", "1", "--device", "cpu"]
    small += ["--threads", "1"]
    assert run_command("benchmark", ["detector", *small, "--json", str(tmp_path / "d.json")]) == 0
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["images"] == 2 and report["objects"] > 0
    assert 0 < report["of_the_model"] < 1.5 and report["folder_images_per_s"] > 0
