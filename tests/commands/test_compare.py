"""Runs side by side: copies of one run, of which one was changed."""

import json
import re
import shutil

import pytest
from PIL import Image

from pe_spatial.commands.shell import run_command
from pe_spatial.training.comparison import Comparison, read_runs
from pe_spatial.training.explanation import percent

MEASURES = {"toy/score": vars(percent("score", "mean score")), "toy/AP": vars(percent("AP", "of a class"))}


@pytest.fixture
def runs(finished, tmp_path):
    """The finished run twice: the second with another learning rate, a lower score, and a class that is not defined."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(finished[1], folder)
    rewrite(folders[0], 0.9, {"dark": 0.5, "bright": 0.25})
    rewrite(folders[1], 0.4, {"dark": 0.75, "bright": None})
    config = folders[1] / "config.yaml"
    config.write_text(re.sub(r"lr: 0\.01\b", "lr: 0.02", config.read_text()))
    return folders


def rewrite(folder, score, classes):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["mode"] == "val":
            record.update({"toy/score": score, "toy/none": None, "per_class": {"toy/AP": classes}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    card = json.loads((folder / "result.json").read_text())
    card.update(measures=MEASURES, headline=["toy/score"])
    (folder / "result.json").write_text(json.dumps(card))


def compare(*arguments):
    return run_command("compare", [str(argument) for argument in arguments])


def test_configs_metrics_classes_and_curves(runs, tmp_path, capsys, drawn_charts):
    assert compare(*runs, "--output", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "optim_wrapper.optimizer.lr 0.01 0.02" in lines
    assert "toy/score 90.0 %* 40.0 %" in lines and "toy/none – –" in lines
    assert "dark 50.0 % 75.0 %*" in lines and "bright 25.0 % –" in lines
    page = (tmp_path / "out" / "comparison.md").read_text()
    assert "| toy/score | **90.0 %** | 40.0 % |" in page and "| dark | 50.0 % | **75.0 %** |" in page
    assert "best checkpoint, iteration" in page and "![" in page
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.width > 500


def test_the_lower_error_is_the_better_one(runs):
    card = json.loads((runs[0] / "result.json").read_text())
    card["measures"]["toy/score"]["higher_is_better"] = False
    for folder in runs:
        (folder / "result.json").write_text(json.dumps(card))
    table = Comparison(read_runs(runs)).metrics()
    assert table.rows[0][0] == "toy/score" and table.best[0] == [1]


def test_runs_that_were_killed_are_compared_without_marks(runs):
    for folder in runs:
        (folder / "result.json").unlink()
    comparison = Comparison(read_runs(runs))
    assert comparison.metrics().rows[0] == ["toy/score", "0.9000", "0.4000"] and comparison.metrics().best[0] == []
    assert any("none is marked" in note for note in comparison.notes())


def test_runs_of_different_tasks_share_what_they_have(runs):
    text = (runs[1] / "metrics.jsonl").read_text()
    (runs[1] / "metrics.jsonl").write_text(text.replace("toy/", "other/"))
    comparison = Comparison(read_runs(runs))
    assert any("no metric in common" in note for note in comparison.notes())
    rows = {row[0]: row[1:] for row in comparison.metrics().rows}
    assert rows["toy/score"] == ["90.0 %", "–"] and rows["other/score"] == ["–", "0.4000"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["first", "nothing"], "nothing: no such folder"),
        (["first", "empty"], "has neither config.yaml nor a complete checkpoint"),
        (["first", "second/../first"], "is given twice"),
        (["first", "damaged"], "result.json is damaged: its field 'metrics'"),
        (["first", "strange"], "result.json is damaged: its measures"),
    ],
)
def test_what_cannot_be_compared_is_named(runs, tmp_path, capsys, names, message):
    (tmp_path / "empty").mkdir()
    for name, text in (("damaged", '{"metrics": 1}'), ("strange", '{"metrics": {}, "measures": {"a": {"b": 1}}}')):
        shutil.copytree(runs[0], tmp_path / name)
        (tmp_path / name / "result.json").write_text(text)
    assert compare(*(tmp_path / name for name in names)) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "comparison").exists()


def test_one_run_is_refused(runs, capsys):
    with pytest.raises(SystemExit) as stopped:
        compare(runs[0])
    assert stopped.value.code == 2 and "give two runs or more" in capsys.readouterr().err
