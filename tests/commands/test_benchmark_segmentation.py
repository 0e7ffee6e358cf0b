"""The benchmark of folders runs both sides, finds equal labels, and reports; what it measures is not tested."""

import json

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from pe_spatial.commands.shell import run_command


@pytest.mark.parametrize("engine", [None, "onnxruntime"])
def test_folders_against_mmseg(engine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy()
    )  # mmseg sets its own for good
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 112, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    config = tmp_path / "windows.yaml"  # as the recipes have it: the stride is left to the model
    config.write_text("_base_: demo/seg_linear_tiny_shapes.yaml\nmodel: {window: {size: 64}}\n")
    arguments = ["--input", tmp_path / "*.png", "--config", config, "--classes", 7, "--rounds", 1]
    options = ["--device", "cpu", "--threads", 1, "--json", tmp_path / "report.json"]
    if engine is not None:
        pytest.importorskip(engine)
        pytest.importorskip("onnxscript")
        options += ["--engine", engine]
    run_command("benchmark", [str(argument) for argument in ("segmentation", *arguments, *options)])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["equal_labels"] > 0.999 and report["ratio"] > 0 and report["images"] == 2
    assert 0 < report["ours_share_of_network"] < 1
    assert f"ratio {report['ratio']:.4g}" in capsys.readouterr().out
