"""`pe-spatial predict --tiles`: depth of a large picture in tiles where they are asked for, else in one pass."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from shared_models import save_shared

from pe_spatial.commands.shell import run_command
from pe_spatial.depth import DepthModel
from pe_spatial.inference.predictor import Predictor, pipeline_loader


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_shared(tmp_path_factory.mktemp("depth") / "depth.pth", "depth", tiling={"tile": [64, 64]})


@pytest.fixture
def photo(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(coarse).resize((160, 96)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def seen(monkeypatch):
    sizes, raw = [], DepthModel.raw

    def watched(self, inputs, data_samples=None):
        sizes.append(tuple(inputs.shape[-2:]))
        return raw(self, inputs, data_samples)

    monkeypatch.setattr(DepthModel, "raw", watched)
    return sizes


def predict(checkpoint, photo, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", photo, "--output", output, "--device", "cpu", *options]
    status = run_command("predict", [str(each) for each in (*arguments, "--no-pictures", "--npy")])
    return status, (np.load(next((output / "depth").glob("*.npy"))) if status == 0 else None)


def test_one_pass_by_default_and_tiles_where_they_are_asked_for(checkpoint, photo, seen, tmp_path):
    status, whole = predict(checkpoint, photo, tmp_path / "whole", "--image-size", "64")
    assert status == 0 and whole.shape == (96, 160) and [max(size) for size in seen] == [64]
    seen.clear()
    status, tiled = predict(checkpoint, photo, tmp_path / "tiles", "--tiles", "48")
    assert status == 0 and tiled.shape == (96, 160)
    assert seen.count((48, 48)) == 3 * 5 and len(seen) == 16  # and the reduced picture
    assert np.abs(tiled - whole).max() > 1e-3


def test_tiles_are_those_of_the_model(checkpoint, photo, tmp_path):
    _, tiled = predict(checkpoint, photo, tmp_path / "out", "--tiles", "48")
    steps = json.dumps([{"type": "LoadImage"}, {"type": "PackSample"}])
    place = f"{pipeline_loader(Predictor(checkpoint, 'cpu').config)}.dataset.pipeline"
    changes = ["model.tiling.tile=[48,48]", f"{place}={steps}"]
    model = Predictor(checkpoint, "cpu", overrides=changes)
    assert torch.equal(torch.from_numpy(tiled), model(photo).pred_depth.data[0])


def test_tiles_at_the_size_of_another_option(checkpoint, photo, seen, tmp_path):
    assert predict(checkpoint, photo, tmp_path / "out", "--tiles", "48", "--image-size", "80")[0] == 0
    assert seen.count((48, 48)) == 2


def test_mistakes_are_named(checkpoint, photo, tmp_path, capsys):
    assert predict(checkpoint, photo, tmp_path / "a", "--tiles", "44")[0] == 2
    assert "tile (44, 44) (H, W) is not a multiple of the patch size 8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict(checkpoint, photo, tmp_path / "b", "--tiles", "0")
    assert predict(checkpoint, photo, tmp_path / "c", "--slices", "64")[0] == 2
    assert "--slices is for detection" in capsys.readouterr().err
