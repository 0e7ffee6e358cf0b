"""Two processes train as one process with the same global batch."""

import json

import pytest
import torch
from processes import launch
from small_runs import CONFIG, overrides, write_strips

from pe_spatial.training.checkpoint import load_checkpoint

ITERATIONS = 3


def records(work_dir):
    lines = map(json.loads, (work_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["mode"] == "train"]


@pytest.fixture(scope="module")
def work_dirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    write_strips(folder / "data")
    for name, processes in (("one", 1), ("two", 2)):
        changes = overrides(folder / "data", ITERATIONS, batch_size=2 // processes)
        launch(CONFIG, folder / name, processes, changes)
    return folder / "one", folder / "two"


def test_gradients_agree(work_dirs):
    """The log of two processes has the first one's losses; that both halves count shows in the gradient's norm."""
    one, two = ([row["grad_norm"] for row in records(folder)] for folder in work_dirs)
    assert len(one) == ITERATIONS
    assert two == pytest.approx(one, rel=1e-4)


def test_weights_agree(work_dirs):
    one, two = (load_checkpoint(folder / f"iter_{ITERATIONS}.pth")["state_dict"] for folder in work_dirs)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-5, rtol=0, msg=lambda text, key=key: f"{key}: {text}")


def test_metrics_agree(work_dirs):
    one, two = (json.loads((folder / "result.json").read_text())["metrics"] for folder in work_dirs)
    assert two == pytest.approx(one, abs=1e-3)
