"""Windows over large pictures: what the detector sees, and that every object is found once, where it is."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from scipy import ndimage
from small_runs import CONFIG, overrides, write_strips
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pe_spatial.commands.shell import run_command
from pe_spatial.data import DensePreprocessor, decode_masks, encode_masks, mask_areas
from pe_spatial.data.transforms import boxes_of_masks
from pe_spatial.detection.slicing import SlicedDetection, clear_of
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config


class BlobDetector(nn.Module):
    """Finds every connected bright blob; what the edge of its input cuts scores more than what is whole."""

    def __init__(self, masks=True, smallest=1):
        super().__init__()
        self.data_preprocessor = DensePreprocessor(mean=[0, 0, 0], std=[2, 2, 2], size_divisor=16)
        self.masks, self.smallest, self.seen = masks, smallest, []

    def forward(self, inputs, data_samples, mode):
        assert mode == "predict"
        for image, sample in zip(inputs, data_samples, strict=True):
            height, width = sample.img_shape
            self.seen.append((height, width))
            labels, count = ndimage.label(image[0, :height, :width].numpy() > 50)
            blobs = torch.from_numpy(labels == np.arange(1, count + 1)[:, None, None]).reshape(count, height, width)
            blobs = blobs[blobs.sum((1, 2)) >= self.smallest]
            boxes = boxes_of_masks(blobs) if len(blobs) else torch.zeros(0, 4)
            cut = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == torch.tensor([width, height])).any(1)
            ratio = torch.tensor([sample.ori_shape[1] / width, sample.ori_shape[0] / height] * 2)
            found = InstanceData(
                bboxes=boxes * ratio, scores=0.8 + 0.1 * cut, labels=torch.zeros(len(boxes), dtype=torch.long)
            )
            if self.masks:
                found.masks = torch.nn.functional.interpolate(blobs[:, None].float(), sample.ori_shape)[:, 0] > 0.5
            sample.pred_instances = found
        return data_samples


def scene(size, boxes):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 200
    return image


def detect(image, detector=None, scale=1, **settings):
    shape = tuple(image.shape[1:])
    sample = BaseDataElement(metainfo={"img_shape": shape, "ori_shape": tuple(scale * side for side in shape)})
    data = {"inputs": [image], "data_samples": [sample]}
    return SlicedDetection(**settings)(detector or BlobDetector(), data)[0].pred_instances


def rows(found):
    return sorted(tuple(box) for box in found.bboxes.tolist())


BOXES = [(3, 5, 13, 11), (60, 50, 69, 60), (95, 20, 101, 30), (58, 95, 66, 101), (150, 110, 160, 119)]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("overlap", [0.25, 0.3, 0.5])
def test_every_object_is_found_once_wherever_borders_cut_it(overlap, whole):
    """The scene is moved over the borders of the windows, step by step: boxes and masks move along."""
    for step in range(0, 60, 3):
        moved = [(x1 + step, y1 + step, x2 + step, y2 + step) for x1, y1, x2, y2 in BOXES]
        image = scene((200, 240), moved)
        found = detect(image, size=64, overlap=overlap, whole=whole)
        assert rows(found) == sorted(moved)
        order = found.bboxes[:, 0].argsort()
        assert torch.equal(decode_masks(found.masks)[order].any(0), image[0] > 0)
        assert mask_areas(found.masks) == [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in found.bboxes.int().tolist()]


@pytest.mark.parametrize("size", [(64, 64), (40, 30), (64, 7)])
def test_what_fits_one_window_is_the_detection_of_the_picture(size):
    image, detector = scene(size, [(1, 1, 5, 6), (2, 20, 4, 30)]), BlobDetector()
    found = detect(image, detector, size=64, scale=3)
    sample = BaseDataElement(metainfo={"img_shape": size, "ori_shape": tuple(3 * side for side in size)})
    batch = detector.data_preprocessor({"inputs": [image], "data_samples": [sample]})
    plain = detector(**batch, mode="predict")[0].pred_instances
    assert detector.seen == [size] * 2
    assert all(torch.equal(found[key], plain[key]) for key in ("bboxes", "scores", "labels"))
    assert found.masks == encode_masks(plain.masks)


def test_windows_are_no_larger_than_asked_for_and_cover_the_picture():
    detector = BlobDetector()
    detect(scene((100, 150), []), detector, size=64, overlap=0.25, batch_size=3)
    assert detector.seen == [(64, 64)] * 6 + [(43, 64)]  # two rows, three columns, and the whole picture
    detector = BlobDetector()
    detect(scene((20, 150), []), detector, size=64, overlap=0.25, whole=False)
    assert detector.seen == [(20, 64)] * 3


@pytest.mark.parametrize("masks", [True, False])
def test_an_empty_picture(masks):
    found = detect(scene((150, 150), []), BlobDetector(masks), size=64)
    assert len(found) == 0 and ("masks" in found) == masks
    assert found.get("masks", []) == []


def test_boxes_alone_are_enough():
    found = detect(scene((200, 240), BOXES), BlobDetector(masks=False), size=64, overlap=0.3)
    assert rows(found) == sorted(BOXES) and "masks" not in found


def test_a_large_object_is_left_to_the_whole_picture():
    """It is longer than the overlap, so that no window sees it whole; without the whole picture its pieces stay."""
    box = (20, 30, 180, 170)
    image = scene((200, 240), [box, (210, 10, 216, 18)])
    found = detect(image, size=64, overlap=0.25)
    large, small = found.bboxes[found.bboxes[:, 0].argsort()]
    torch.testing.assert_close(large, torch.tensor(box).float(), atol=4, rtol=0)  # a pixel of the reduced picture
    assert small.tolist() == [210, 10, 216, 18] and len(found) == 2
    union = decode_masks(found.masks).any(0)
    assert (union == (image[0] > 0)).float().mean() > 0.97
    assert len(detect(image, size=64, overlap=0.25, whole=False)) > 5
    blind = BlobDetector(smallest=10**4)  # sees nothing in the reduced picture
    assert len(detect(image, blind, size=64)) == 0


def test_windows_of_a_resized_picture_count_in_the_original():
    """The pipeline may enlarge or reduce the picture: boxes are exact, masks to the rounding of the corners."""
    for scale in (2, 3):
        found = detect(scene((100, 150), [(60, 40, 69, 50), (100, 70, 110, 81)]), size=64, overlap=0.3, scale=scale)
        expected = torch.tensor([[60.0, 40, 69, 50], [100, 70, 110, 81]]) * scale
        torch.testing.assert_close(found.bboxes[found.bboxes[:, 0].argsort()], expected)
        assert sorted(mask_areas(found.masks)) == [90 * scale**2, 110 * scale**2]


def test_clear_of():
    windows = [(slice(0, 64), slice(0, 64)), (slice(0, 64), slice(40, 104))]
    boxes = torch.tensor([[0.0, 0, 60, 64], [0, 0, 61, 64], [43, 10, 50, 20], [44, 10, 104, 20], [30, 0, 70, 9]])
    assert clear_of(windows, boxes, 4, (64, 104)).tolist() == [True, False, True, True, False]
    assert clear_of(windows[:1], boxes, 4, (64, 104)).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "slices.size 0 must be at least 1"),
        ({"size": 64.5}, "must be whole numbers"),
        ({"size": 64, "overlap": 1.0}, r"slices.overlap 1.0 is not a share .* from 0 to 0.9"),
        ({"size": 64, "overlap": -0.1}, r"slices.overlap -0.1 is not a share"),
        ({"size": 64, "overlap": float("nan")}, r"slices.overlap nan is not a share"),
        ({"size": 64, "max_detections": 0}, "slices.max_detections 0 must be at least 1"),
        ({"size": 64, "batch_size": 0}, "slices.batch_size 0"),
        ({"size": 64, "merge": {"method": "hard"}}, "suppression 'hard' is not one of nms"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SlicedDetection(**options)


def test_the_best_detections_are_kept():
    assert len(detect(scene((200, 240), BOXES), size=64, max_detections=2)) == 2


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def test_memory_follows_the_windows_and_not_the_picture():
    """No tensor is made that is as large as the picture; bitmaps of all its objects would be 13 times as large."""
    boxes = [(x, y, x + 8, y + 8) for x in range(100, 3000, 300) for y in range(200, 3000, 700)]
    image = scene((3000, 3000), boxes)
    with Largest() as largest:
        found = detect(image, size=500, whole=False)
    assert rows(found) == sorted(boxes)
    assert sum(len(rle["counts"]) for rle in found.masks) < 40 * 200
    assert largest.numbers < image.numel() / 2


# --- through the tools ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Strips, and an untrained detector that describes itself, which resizes pictures and pads them to 64 pixels."""
    folder = tmp_path_factory.mktemp("slices")
    write_strips(folder / "data", images=2)
    torch.manual_seed(0)
    config = load_config(CONFIG, overrides(folder / "data", iterations=1))
    metainfo = {"classes": ("a", "b", "c"), "category_ids": (1, 4, 6)}
    weights = MODELS.build(config.model).state_dict()
    content = {"state_dict": weights, "pe_spatial": describe(config.to_dict(), metainfo)}
    save_checkpoint(content, folder / "detector.pth")
    (folder / "large").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "large" / "1.png")
    return folder


def predict(work, name, *options):
    where = ["--checkpoint", str(work / "detector.pth"), "--device", "cpu", "--threshold", "0"]
    assert run_command("predict", [*where, "--output", str(work / name), *options]) == 0
    return json.loads((work / name / "predictions.json").read_text())["annotations"]


def test_predict_sees_the_picture_at_its_own_size(work):
    """Every window is the prediction of its part of the picture; and the masks of the list are those of the picture."""
    image = np.asarray(Image.open(work / "large" / "1.png"))
    slices = "model.slices={size: 64, whole: false, merge: {threshold: 1.0}}"
    rows = predict(work, "own", "--input", str(work / "large"), "--slices", "64", slices)
    predictor = Predictor(work / "detector.pth", device="cpu")
    part = predictor(np.ascontiguousarray(image[:64, :64])).pred_instances
    clear = (part.bboxes[:, 2:] < 64 - 0.2 * 64 / 8).all(1)
    scores = {row["score"] for row in rows}
    assert clear.any() and {round(score, 5) for score in part.scores[clear].tolist()} <= scores
    assert all(row["segmentation"]["size"] == [150, 200] for row in rows)
    assert [row["area"] for row in rows] == mask_areas([row["segmentation"] for row in rows])
    assert Image.open(work / "own" / "pictures" / "1.png").size[0] >= 200


def test_evaluation_and_prediction_agree(work):
    results, slices = work / "scored" / "results.json", ["--slices", "32", "--slice-overlap", "0.25"]
    where = [str(work / "detector.pth"), "--device", "cpu", "--output", str(work / "scored")]
    assert run_command("eval", [*where, *slices, "val_evaluator.results_file=results.json"]) == 0
    scored = [row for row in json.loads(results.read_text()) if row["image_id"] == 1]
    rows = predict(work, "agree", "--input", str(work / "data" / "images" / "1.png"), "--no-pictures", *slices)
    assert len(rows) == len(scored) > 0
    assert [row["segmentation"] for row in rows] == [row["segmentation"] for row in scored]
    np.testing.assert_allclose([row["bbox"] for row in rows], [row["bbox"] for row in scored], atol=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slices", "0"], "0 is too small; give 1 or more"),
        (["--slices", "64", "--slice-overlap", "1"], "1 is too large; give 0.9 or less"),
        (
            ["--slice-overlap", "0.3"],
            "--slice-overlap 0.3 needs --slices, because it sets the overlap of these windows; give --slices too",
        ),
        (["--slices", "64", "model.tta={sizes: [64]}"], "model.slices and model.tta cannot be combined"),
        (["model.slices={size: 80}"], "slices.size is 80, and images are padded to (64, 64)"),
        (["model.slices={side: 64}"], "slices: "),
    ],
)
def test_mistakes_are_named(work, options, message, capsys):
    where = ["--checkpoint", str(work / "detector.pth"), "--input", str(work / "large"), "--device", "cpu"]
    try:
        status = run_command("predict", [*where, "--output", str(work / "other"), *options])
    except SystemExit as end:
        status = end.code
    assert status == 2 and message in capsys.readouterr().err
