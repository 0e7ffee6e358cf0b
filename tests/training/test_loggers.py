"""Curves in a CSV file, and the estimate of the time that is left."""

import csv
from types import SimpleNamespace

import pytest

from pe_spatial.common.errors import CheckpointError
from pe_spatial.training import estimate
from pe_spatial.training.data_identity import check_identity, identity
from pe_spatial.training.estimate import TimeEstimateHook
from pe_spatial.training.loggers import CsvVisBackend


def test_scalars_are_rows_that_come_back(tmp_path):
    backend = CsvVisBackend(str(tmp_path / "log"))
    written = [(1, "train/loss", 0.5), (1, "train/lr", 1e-4), (20, "val/coco/bbox_mAP, small", 1 / 3)]
    backend.add_scalars({"train/loss": 0.5, "train/lr": 1e-4}, step=1)
    backend.add_scalar(written[2][1], written[2][2], step=20)
    CsvVisBackend(str(tmp_path / "log")).add_scalars({}, step=30)
    with (tmp_path / "log" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["iter"]), row["name"]) for row in rows] == [row[:2] for row in written]
    assert [float(row["value"]) for row in rows] == pytest.approx([row[2] for row in written], rel=1e-5)


@pytest.fixture
def told(monkeypatch):
    """What the hook says in a run whose iterations take so many seconds, the first ones ten times as long."""

    def run(seconds, iterations, begin=0):
        clock, lines = SimpleNamespace(now=0.0), []
        monkeypatch.setattr(estimate, "time", SimpleNamespace(monotonic=lambda: clock.now))
        runner = SimpleNamespace(max_iters=iterations, iter=begin, logger=SimpleNamespace(info=lines.append))
        hook = TimeEstimateHook(warmup=2, timed=10)
        hook.before_train(runner)
        for runner.iter in range(begin, iterations):
            clock.now += seconds * (10 if runner.iter < begin + 2 else 1)
            hook.after_train_iter(runner, runner.iter)
        return lines

    return run


def test_the_time_that_is_left_is_told_once(told):
    assert told(2.0, 113) == [
        "estimate: 0:03:20 for the other 100 iterations, at 2.00 s each (median of 10), without validation"
    ]


def test_a_run_that_goes_on_is_timed_anew(told):
    (line,) = told(1.0, 1000, begin=900)
    assert line.startswith("estimate: 0:01:27 for the other 87 iterations, at 1.00 s")


@pytest.mark.parametrize("iterations", [1, 12, 13])
def test_a_run_that_is_over_by_then_is_told_nothing(told, iterations):
    assert told(1.0, iterations) == []


# --- data -------------------------------------------------------------------------------------------------------------
class Data(list):
    """Rows that know their fingerprint."""

    def fingerprint(self):
        return str(hash(tuple(self)))


def test_the_same_data_and_data_that_is_not_known_go_on():
    check_identity(identity(Data([1, 2])), Data([1, 2]), "c.pth")
    check_identity(None, Data([1]), "c.pth")  # of an earlier version
    check_identity(identity(Data([1])), [2], "c.pth")  # a dataset of the user's own


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (identity(Data([1, 3])), "other pictures or objects.*load_from=c.pth"),
        (identity(Data([1])), "1 images before, 2 now"),
        ("nonsense", "damaged: its entry pe_spatial.data is 'nonsense'"),
        ({"images": "2"}, "damaged"),
    ],
)
def test_other_data_are_refused(before, message):
    with pytest.raises(CheckpointError, match=message):
        check_identity(before, Data([1, 2]), "c.pth")
