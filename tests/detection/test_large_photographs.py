"""Predicting a large photograph never makes a tensor with the masks of all objects."""

import json
import math

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from pycocotools import mask as coco_mask
from small_runs import CONFIG, overrides
from torch.utils._python_dispatch import TorchDispatchMode

import pe_spatial.detection  # noqa: F401 - registers
from pe_spatial.commands.shell import run_command
from pe_spatial.data import decode_masks, encode_masks, mask_areas
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.sample import instance_rows
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config

SIDE = 1200
RESIZED = "val_dataloader.dataset.pipeline=" + json.dumps(
    [{"type": "LoadImage"}, {"type": "KeepRatioResize", "max_size": 64}, {"type": "PackSample"}]
)


class LargestTensor(TorchDispatchMode):
    """Notes the largest result of any operation of torch, in numbers."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, torch.Tensor):
                self.most = max(self.most, math.prod(result.shape))
        return results


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    config = load_config(CONFIG, overrides("nowhere", iterations=1))
    path = tmp_path_factory.mktemp("checkpoint") / "detector.pth"
    content = describe(config.to_dict(), {"classes": ("a", "b", "c"), "category_ids": (1, 4, 6)})
    save_checkpoint({"state_dict": MODELS.build(config.model).state_dict(), "pe_spatial": content}, path)
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    coarse = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(coarse).resize((SIDE, SIDE)).save(path)
    return path


def test_no_tensor_has_the_masks_of_all_objects(checkpoint, photo):
    predictor = Predictor(checkpoint, device="cpu", overrides=[RESIZED])
    with LargestTensor() as largest:
        sample = predictor(photo)
        rows, picture = instance_rows(sample.pred_instances), sample.draw(threshold=0)
    assert len(rows) > 2 and largest.most <= 3 * SIDE * SIDE  # the picture is the largest
    assert picture.shape == (SIDE, SIDE, 3)
    assert [row["area"] for row in rows] == mask_areas(sample.pred_instances.masks)


def test_every_form_of_the_masks_is_the_same(checkpoint, photo, tmp_path):
    sample = Predictor(checkpoint, device="cpu", overrides=[RESIZED])(photo)
    found = sample.pred_instances
    bitmaps = decode_masks(found.masks)
    assert bitmaps.shape == (len(found), SIDE, SIDE) and found.masks == encode_masks(bitmaps)
    assert (sample.to_arrays()["mask"] == bitmaps.numpy()).all()
    for row, bitmap in zip(sample.to_coco(image_id=1), bitmaps.numpy(), strict=True):
        assert (coco_mask.decode(row["segmentation"]) == bitmap).all() and row["area"] == bitmap.sum()
    whole = sample.new()
    whole.pred_instances = found.new()
    whole.pred_instances.masks = bitmaps  # the field as it was before
    assert (whole.draw(threshold=0) == sample.draw(threshold=0)).all() and repr(whole) == repr(sample)
    assert instance_rows(whole.pred_instances) == instance_rows(found)
    nothing = sample.filter(1.0)
    assert len(nothing.pred_instances) == 0 and nothing.to_arrays()["mask"].shape == (0, SIDE, SIDE)


def test_a_damaged_photograph_is_named(checkpoint, photo, tmp_path, capsys):
    path = tmp_path / "cut.png"
    path.write_bytes(photo.read_bytes()[:5000])
    arguments = ["--checkpoint", checkpoint, "--input", path, "--output", tmp_path / "out", "--device", "cpu"]
    assert run_command("predict", [str(each) for each in arguments]) == 1
    assert "cut.png" in capsys.readouterr().err
