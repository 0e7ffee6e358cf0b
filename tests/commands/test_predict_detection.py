"""tools/predict.py on an untrained detector: what it writes, in which frame, and what it says about bad input."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_runs import CONFIG, overrides

from pe_spatial.commands.shell import run_command
from pe_spatial.data import decode_masks
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained detector that describes itself; its category ids have gaps."""
    torch.manual_seed(0)
    config = load_config(CONFIG, overrides("nowhere", iterations=1))
    path = tmp_path_factory.mktemp("checkpoint") / "detector.pth"
    metainfo = {"classes": ("a", "b", "c"), "category_ids": (1, 4, 6)}
    weights = MODELS.build(config.model).state_dict()
    save_checkpoint({"state_dict": weights, "pe_spatial": describe(config.to_dict(), metainfo)}, path)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of two images, one of them in a subfolder, and a file that is no image."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (40, 64)), ("more/a.jpg", (64, 48))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def run(checkpoint, source, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    return run_command("predict", [str(argument) for argument in arguments])


def test_a_folder_with_a_bad_file(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(checkpoint, photos, output, "--threshold", 0) == 1  # one file could not be read
    assert "broken.jpg" in capsys.readouterr().err
    found = json.loads((output / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["b.png", "more/a.jpg"]
    assert found["categories"] == [{"id": 1, "name": "a"}, {"id": 4, "name": "b"}, {"id": 6, "name": "c"}]
    assert (output / "pictures" / "b.png").is_file()
    assert (output / "pictures" / "more" / "a.jpg").is_file()
    coco = COCO(str(output / "predictions.json"))  # a dataset that COCO's tools read
    assert {row["category_id"] for row in found["annotations"]} <= {1, 4, 6}
    assert all(coco.annToMask(row).sum() == row["area"] for row in found["annotations"])


def test_equals_the_predictor(checkpoint, photos, tmp_path):
    output = tmp_path / "out"
    assert run(checkpoint, photos / "b.png", output, "--threshold", 0, "--no-pictures") == 0
    assert not (output / "pictures").exists()
    rows = json.loads((output / "predictions.json").read_text())["annotations"]
    expected = Predictor(checkpoint, device="cpu")(photos / "b.png").pred_instances
    assert len(rows) == len(expected) > 0
    for row, (x1, y1, x2, y2), score, mask in zip(
        rows, expected.bboxes.tolist(), expected.scores.tolist(), decode_masks(expected.masks), strict=True
    ):
        assert row["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.01)
        assert row["score"] == pytest.approx(score, abs=1e-5)
        assert np.array_equal(coco_mask.decode(row["segmentation"]).astype(bool), mask.numpy())


def test_a_video_gives_a_video(checkpoint, tmp_path):
    path = tmp_path / "street.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for level in (0, 100, 200):
        video.write(np.full((48, 64, 3), level, np.uint8))
    video.release()
    output = tmp_path / "out"
    assert run(checkpoint, path, output, "--threshold", 1) == 0
    images = json.loads((output / "predictions.json").read_text())["images"]
    assert [(image["file_name"], image["frame"]) for image in images] == [("street.avi", n) for n in range(3)]
    drawn = cv2.VideoCapture(str(output / "pictures" / "street.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    levels = []
    while (frame := drawn.read())[0]:
        levels.append(frame[1].mean())
    assert levels == pytest.approx([0, 100, 200], abs=8)  # all frames, in order


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", (), "no image or video there"),
        ("photos", ("--threshold", "2"), "threshold 2.0 is not a score"),
    ],
)
def test_mistakes_are_named(checkpoint, photos, tmp_path, capsys, source, options, message):
    assert run(checkpoint, photos.parent / source, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named(photos, tmp_path, capsys):
    assert run("nothing.pth", photos, tmp_path / "out") == 2
    assert "no such checkpoint" in capsys.readouterr().err
