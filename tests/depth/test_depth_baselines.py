import constant_depth
import numpy as np
import pytest
import torch
from constant_depth import best_constants
from PIL import Image

from pe_spatial.commands.shell import run_module
from pe_spatial.depth.metrics import MEASURES, depth_errors


def test_equal_depth_is_predicted_by_a_constant():
    best = best_constants([torch.full((1, 3, 4), 2.0)] * 2, {"depth_range": [0.5, 8]}, number=33)
    for name, (value, constant) in best.items():
        assert value == pytest.approx(0.0 if MEASURES[name].lower_is_better else 1.0, abs=1e-5)
        assert name == "silog" or MEASURES[name].lower_is_better is False or constant == pytest.approx(2.0)


def test_no_constant_does_better():
    rng = np.random.default_rng(0)
    targets = [torch.from_numpy(rng.uniform(1, 9, (1, 6, 7)).astype(np.float32)) for _ in range(3)]
    best = best_constants(targets, {"depth_range": [0.5, 10]}, number=300)
    for constant in (0.7, 2.0, 4.4, 5.0, 8.8):
        rows = [depth_errors(torch.full((42,), constant), target.flatten()) for target in targets]
        for name, measure in MEASURES.items():
            mean = sum(row[name] for row in rows) / 3
            better = best[name][0] <= mean + 1e-3 if measure.lower_is_better else best[name][0] >= mean - 1e-3
            assert better, name
    assert best["rmse"][1] == pytest.approx(float(torch.stack(targets).mean()), rel=0.05)


def test_an_alignment_makes_no_sense():
    with pytest.raises(ValueError, match="alignment='median' makes all constants equal"):
        best_constants([], {"depth_range": [1, 2], "alignment": "median"})


def test_the_tool_prints_every_measure(tmp_path, capsys):
    for folder in ("images/val", "depth/val"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "images/val/a.png")
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "depth/val/a.png")
    command = ["--config", "demo/depth_dpt_tiny_shapes.yaml", f"val_dataloader.dataset.data_root={tmp_path}"]
    assert run_module(constant_depth, "study", command) == 0
    printed = capsys.readouterr().out
    assert all(name + measure.arrow in printed for name, measure in MEASURES.items())
    assert run_module(constant_depth, "study", [*command, "val_dataloader.dataset.depth_scale=1.0"]) == 2
    assert "looks like millimeters" in capsys.readouterr().err
