"""A trained detector on single images finds what its evaluation found."""

import json

import pytest
import torch
from small_runs import CONFIG, overrides, write_strips

from pe_spatial.data import encode_masks
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Work folder and data of a run of two iterations, and the results file of its evaluation."""
    folder = tmp_path_factory.mktemp("parity")
    write_strips(folder / "data")
    results = folder / "results.json"
    changes = [*overrides(folder / "data", iterations=2), f"val_evaluator.results_file={results}"]
    for function in (train, evaluate):
        config = load_config(CONFIG, changes)
        config.work_dir = str(folder / "run")
        function(config)
    return folder / "run", folder / "data", json.loads(results.read_text())


def test_predictor_equals_evaluation(run):
    work_dir, data, rows = run
    predictor = Predictor(work_dir, device="cpu")
    assert predictor.classes == ("a", "b", "c")
    assert rows
    for number in range(1, 5):
        expected = [row for row in rows if row["image_id"] == number]
        found = predictor(data / "images" / f"{number}.png").pred_instances
        assert len(found) == len(expected)
        torch.testing.assert_close(found.scores, torch.tensor([row["score"] for row in expected]), atol=1e-5, rtol=0)
        corner_and_size = torch.cat([found.bboxes[:, :2], found.bboxes[:, 2:] - found.bboxes[:, :2]], dim=1)
        boxes = torch.tensor([row["bbox"] for row in expected])
        torch.testing.assert_close(corner_and_size, boxes, atol=1e-3, rtol=0)
        assert [(1, 4, 6)[label] for label in found.labels] == [row["category_id"] for row in expected]
        assert encode_masks(found.masks) == [row["segmentation"] for row in expected]


def test_wrong_number_of_classes_stops_before_training(run, tmp_path):
    from pe_spatial.common.errors import ConfigError

    config = load_config(CONFIG, [*overrides(run[1], iterations=2), "model.num_classes=5"])
    config.work_dir = str(tmp_path)
    with pytest.raises(ConfigError, match=r"num_classes=5, the dataset has 3 classes \(a, b, c\)"):
        train(config)
