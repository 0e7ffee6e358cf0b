"""The benchmark of folders runs both sides, finds equal labels, and reports; what it measures is not tested."""

import json

import numpy as np
import pytest
import torch
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope
from PIL import Image

from pe_spatial.commands.benchmark import segmentation
from pe_spatial.commands.benchmark.segmentation import make_checkpoint
from pe_spatial.commands.shell import run_command
from pe_spatial.common import linear
from pe_spatial.common.errors import UserError
from pe_spatial.common.linear import prefers_onednn
from pe_spatial.training.checkpoint import load_checkpoint, save_checkpoint


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


def test_trained_weights_take_the_place_of_random_ones(tmp_path):
    name = "demo/seg_linear_tiny_shapes.yaml"
    random = make_checkpoint(name, 7, tmp_path / "random.pth")
    content = load_checkpoint(random)
    trained = {key: value + 1 for key, value in content["state_dict"].items()}
    save_checkpoint({**content, "state_dict": trained}, tmp_path / "trained.pth")
    made = load_checkpoint(make_checkpoint(name, 7, tmp_path / "made.pth", weights=tmp_path / "trained.pth"))
    assert all(torch.equal(value, trained[key]) for key, value in made["state_dict"].items())
    with pytest.raises(UserError, match="does not fit demo/seg_linear_tiny_shapes.yaml with 5 classes: .*--config"):
        make_checkpoint(name, 5, tmp_path / "other.pth", weights=tmp_path / "trained.pth")


def test_mmseg_runs_as_it_does_without_us(tmp_path, monkeypatch):
    """With PyTorch's operators and the memory of the system; afterwards ours are back."""
    monkeypatch.setattr(
        DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy()
    )  # mmseg sets its own for good
    seen = []
    monkeypatch.setattr(BaseInferencer, "__call__", lambda *_, **__: seen.append(prefers_onednn()))
    monkeypatch.setattr(linear, "_is_faster_with_onednn", lambda: True)
    checkpoint = make_checkpoint("demo/seg_linear_tiny_shapes.yaml", 5, tmp_path / "model.pth")
    segmentation.mmseg_run(checkpoint, "cpu", [])([tmp_path / "picture.png"], tmp_path)
    assert seen == [False] and prefers_onednn()
