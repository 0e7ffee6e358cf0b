"""Several views of an image: what each sees, that their boxes meet in the original frame, and how they are merged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from small_runs import CONFIG, overrides, write_strips
from test_nms_variants import one_by_one
from torch import nn
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import resize

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import ConfigError
from pe_spatial.data import DensePreprocessor, decode_masks, encode_masks
from pe_spatial.detection.deta import DETA
from pe_spatial.detection.deta.postprocess import NMSPostprocess, SoftNMSPostprocess
from pe_spatial.detection.nms import Suppression
from pe_spatial.detection.tta import MultiScaleFlip
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate

ROOT = Path(__file__).parents[2]
BOXES = torch.tensor([[4.0, 6, 20, 18], [30, 2, 44, 24], [10, 20, 22, 30]])


def draw(boxes=BOXES, size=(32, 48)):
    """A dark image with a bright rectangle of its own color for every box."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for channel, box in enumerate(boxes):
        x1, y1, x2, y2 = box.int().tolist()
        image[channel, y1:y2, x1:x2] = 255
    return image


class ColorDetector(nn.Module):
    """Finds the bright part of each channel: one detection per channel, in the frame of the original image."""

    def __init__(self):
        super().__init__()
        self.data_preprocessor = DensePreprocessor(size_divisor=16)
        self.seen = []

    def forward(self, inputs, data_samples, mode):
        assert mode == "predict"
        for image, sample in zip(inputs, data_samples, strict=True):
            height, width = sample.img_shape
            self.seen.append(((height, width), tuple(image.shape[1:])))
            masks = image[:, :height, :width] > 0
            boxes = []
            for mask in masks:
                y, x = mask.nonzero(as_tuple=True)
                boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            ratio = torch.tensor([sample.ori_shape[1] / width, sample.ori_shape[0] / height] * 2)
            grown = torch.nn.functional.interpolate(masks[None].float(), sample.ori_shape)[0] > 0.5
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor(boxes).float() * ratio,
                scores=torch.tensor([0.9, 0.8, 0.7]),
                labels=torch.tensor([0, 1, 1]),
                masks=encode_masks(grown),
            )
        return data_samples


def batch(*images, scale=1):
    samples = [
        BaseDataElement(
            metainfo={"img_shape": image.shape[1:], "ori_shape": tuple(scale * side for side in image.shape[1:])}
        )
        for image in images
    ]
    return {"inputs": list(images), "data_samples": samples}


def test_all_views_find_the_same_boxes():
    """Whatever the size and the direction, the three boxes are found where they are, and merged into three."""
    tta = MultiScaleFlip(sizes=[48, 96, 72], merge={"method": "nms", "threshold": 0.5})
    found = tta(ColorDetector(), batch(draw(), scale=2))[0].pred_instances
    torch.testing.assert_close(found.bboxes, BOXES * 2, atol=2.0, rtol=0)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.labels.tolist() == [0, 1, 1]
    for mask, box in zip(decode_masks(found.masks), found.bboxes.round().int().tolist(), strict=True):
        inside = mask[box[1] : box[3], box[0] : box[2]].float().mean()
        assert inside > 0.8 and mask.sum() <= inside.numel() * (box[2] - box[0]) * (box[3] - box[1])


def test_views_have_the_sizes_that_are_asked_for():
    detector = ColorDetector()
    tall, wide = draw(BOXES, (48, 46)), draw()
    MultiScaleFlip(sizes=[48, 64])(detector, batch(wide, tall))
    sizes = [seen for seen, _ in detector.seen]
    assert sizes == [(32, 48), (48, 46)] * 2 + [(42, 64), (64, 61)] * 2
    assert all(canvas == ((48, 48) if max(seen) == 48 else (64, 64)) for seen, canvas in detector.seen)


def test_sizes_of_views_are_the_authors():
    """The image itself is not resized a second time, and the others are rounded down in floating point."""
    detector, image = ColorDetector(), draw(BOXES, (105, 210))
    MultiScaleFlip(sizes=[None, 1728, 64], flip=False)(detector, batch(image))
    expected = [(int(105 * scale), int(210 * scale)) for scale in (1, 1728 / 210, 64 / 210)]
    assert [seen for seen, _ in detector.seen] == expected == [(105, 210), (863, 1727), (32, 64)]


@pytest.mark.parametrize("size", [48, None])
def test_one_view_of_the_image_itself_changes_nothing(size):
    data, again = batch(draw()), batch(draw())
    detector = ColorDetector()
    tta = MultiScaleFlip(sizes=[size], flip=False, merge={"method": "nms", "threshold": 1.0})
    found = tta(detector, data)[0].pred_instances
    expected = detector(**detector.data_preprocessor(again), mode="predict")[0].pred_instances
    for key in ("bboxes", "scores", "labels"):
        assert torch.equal(found[key], expected[key])
    assert found.masks == expected.masks


def test_small_boxes_are_left_to_the_other_views():
    """The area is that in the original image, and the side itself is not enough."""
    tta = MultiScaleFlip(sizes=[48, 96], flip=False, min_boxes=[0, 17], merge={"method": "nms", "threshold": 1.0})
    found = tta(ColorDetector(), batch(draw()))[0].pred_instances
    # all three at 48; at 96 only the second, 14 x 22, has more area than 17 x 17
    assert sorted(found.labels.tolist()) == [0, 1, 1, 1]
    extent = found.bboxes[:, 2:] - found.bboxes[:, :2]
    assert ((extent.prod(1) > 17**2).sum()) == 2


def test_the_authors_merge_is_the_default():
    """Quad Soft-NMS over all views together: the second copy of a box keeps (1 - IoU)^0.5 of its score."""
    tta = MultiScaleFlip(sizes=[48])
    assert tta.merge == Suppression("quad", 0.7, 0.5)
    found = tta(ColorDetector(), batch(draw()))[0].pred_instances
    # image and mirror image agree to the pixel, so copies fall to 0 and go
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert len(MultiScaleFlip([48], max_detections=2)(ColorDetector(), batch(draw()))[0].pred_instances) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, r"sizes \[\] must be different whole numbers of pixels, at least one"),
        ({"sizes": [64, 64]}, r"sizes \[64, 64\] must be different"),
        ({"sizes": [0.5]}, r"sizes \[0.5\] must be different whole numbers"),
        ({"sizes": [64, 96], "min_boxes": [0]}, r"min_boxes \[0\] must be one side .* sizes \[64, 96\]"),
        ({"sizes": [64], "min_boxes": [-1]}, r"min_boxes \[-1\] must be"),
        ({"sizes": [64], "max_detections": 0}, "max_detections 0 must be at least 1"),
        ({"sizes": [64], "merge": {"method": "hard"}}, "suppression 'hard' is not one of nms"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleFlip(**options)


# --- post-processing of queries ---------------------------------------------------------------------------------------
def test_soft_postprocess_lowers_what_hard_postprocess_removes():
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 90], [200, 0, 300, 100]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])  # [Q, K]
    soft, hard = SoftNMSPostprocess()(boxes, scores), NMSPostprocess()(boxes, scores)
    assert hard.scores.tolist() == pytest.approx([0.9, 0.7, 0.3, 0.2])
    expected = [0.9, 0.7, 0.3, 0.8 * 0.1**0.5, 0.2, 0.1 * 0.1**0.5]  # the IoU of the first two is 0.9
    assert soft.scores.tolist() == pytest.approx(expected, rel=1e-5)
    assert soft.labels.tolist() == [0, 0, 1, 0, 1, 1]
    assert torch.equal(soft.bboxes[3], boxes[1])
    assert len(SoftNMSPostprocess(max_detections=2)(boxes, scores)) == 2
    assert len(SoftNMSPostprocess(candidates=3)(boxes, scores)) == 3


def test_deta_is_augmented_as_by_its_authors():
    """Their order: mirror the relative boxes, soften each view, filter it, soften all views together."""
    torch.manual_seed(0)
    model = DETA(
        num_classes=3,
        backbone={
            "type": "PEBackbone",
            "variant": {"base": "PE-Spatial-T16-512", "width": 32, "depth": 2, "heads": 2, "image_size": 64},
        },
        neck={"type": "DetaPyramid", "out_channels": 64},
        transformer={"num_queries": 20, "encoder_layers": 1, "decoder_layers": 1, "layer": {"heads": 2}},
        postprocess={"type": "SoftNMSPostprocess"},
        data_preprocessor={"type": "DensePreprocessor", "pad_to": (96, 96)},
        tta={"sizes": [96, 64], "min_boxes": [0, 20]},
    ).eval()
    data = batch(draw(size=(64, 96)), scale=2)
    with torch.no_grad():
        found = model.test_step(data)[0].pred_instances
        boxes, scores, labels = [], [], []
        for size, smallest in (((64, 96), 0), ((42, 64), 20)):
            for mirrored in (False, True):
                image = resize(data["inputs"][0], list(size), antialias=True)
                sample = BaseDataElement(metainfo={"img_shape": size, "ori_shape": (128, 192)})
                view = {"inputs": [image.flip(-1) if mirrored else image], "data_samples": [sample]}
                last = model(**model.data_preprocessor(view), mode="tensor").layers[-1]
                relative = last.boxes[0].clone()
                if mirrored:
                    relative[:, 0] = 1 - relative[:, 0]
                corners = box_convert(relative, "cxcywh", "xyxy") * torch.tensor([192.0, 128, 192, 128])
                box = corners[:, None].expand(-1, 3, -1).flatten(0, 1)
                score, label = last.logits[0].sigmoid().flatten(), torch.arange(3).repeat(20)
                order, lowered = one_by_one(box, score, label, Suppression("quad"))
                area = (box[order, 2] - box[order, 0]) * (box[order, 3] - box[order, 1])
                keep = area > smallest**2
                boxes.append(box[order][keep])
                labels.append(label[order][keep])
                scores.append(torch.from_numpy(lowered)[keep])
    together = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    order, lowered = one_by_one(*together, Suppression("quad"))
    assert 60 < len(order) < len(together[0])
    np.testing.assert_allclose(found.scores.numpy(), lowered, rtol=2e-5)
    torch.testing.assert_close(found.bboxes, together[0][order], atol=1e-3, rtol=0)
    assert torch.equal(found.labels, together[2][order])


# --- through the tools ------------------------------------------------------------------------------------------------
TTA = "model.tta={sizes: [64, 48], merge: {method: nms, threshold: 0.5}, max_detections: 20}"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Strips, and an untrained detector that describes itself, without augmentation in its config."""
    folder = tmp_path_factory.mktemp("tta")
    write_strips(folder / "data", images=2)
    torch.manual_seed(0)
    config = load_config(CONFIG, overrides(folder / "data", iterations=1))
    weights = MODELS.build(config.model).state_dict()
    metainfo = {"classes": ("a", "b", "c"), "category_ids": (1, 4, 6)}
    content = {"state_dict": weights, "pe_spatial": describe(config.to_dict(), metainfo)}
    save_checkpoint(content, folder / "detector.pth")
    return folder


def score(work, name, *changes):
    """Detections of an evaluation, by image."""
    results = work / f"{name}.json"
    settings = [*overrides(work / "data", iterations=1), f"val_evaluator.results_file={results}", *changes]
    config = load_config(CONFIG, settings)
    config.work_dir = str(work / name)
    evaluate(config, work / "detector.pth")
    return json.loads(results.read_text())


def test_evaluation_and_prediction_agree_and_the_key_decides(work):
    plain, augmented = score(work, "plain"), score(work, "augmented", TTA)
    assert {row["image_id"] for row in augmented} == {1, 2}
    assert augmented != plain
    predictor = Predictor(work / "detector.pth", device="cpu", overrides=[TTA])
    found = predictor(work / "data" / "images" / "1.png").pred_instances
    expected = [row for row in augmented if row["image_id"] == 1]
    torch.testing.assert_close(found.scores, torch.tensor([row["score"] for row in expected]), atol=1e-5, rtol=0)
    corner = torch.tensor([row["bbox"][:2] for row in expected])
    torch.testing.assert_close(found.bboxes[:, :2], corner, atol=1e-3, rtol=0)
    assert decode_masks(found.masks).shape == (len(found), 64, 64)


def test_validation_goes_without(work):
    predictor = Predictor(work / "detector.pth", device="cpu", overrides=[TTA])
    image = work / "data" / "images" / "1.png"
    batch = {key: [value] for key, value in predictor.prepare(image).items()}
    with torch.no_grad():
        found = predictor.model.val_step(batch)[0].pred_instances
    plain = Predictor(work / "detector.pth", device="cpu")(image).pred_instances
    assert torch.equal(found.scores, plain.scores)


def test_predict_tool_takes_the_key(work, capsys):
    where = ["--checkpoint", str(work / "detector.pth"), "--input", str(work / "data" / "images"), "--device", "cpu"]
    more = ["--output", str(work / "out"), "--threshold", "0", "--no-pictures", TTA]
    assert run_command("predict", [*where, *more]) == 0
    rows = json.loads((work / "out" / "predictions.json").read_text())["annotations"]
    assert {row["image_id"] for row in rows} == {1, 2}
    capsys.readouterr()
    assert run_command("predict", [*where, "--output", str(work / "other"), "model.tta={sizes: [64, 128]}"]) == 2
    assert "tta.sizes has 128, and images are padded to (64, 64)" in capsys.readouterr().err
    assert run_command("predict", [*where, "--output", str(work / "other"), "model.tta={scales: [64]}"]) == 2
    assert "tta: " in capsys.readouterr().err
    assert run_command("predict", [*where, "--output", str(work / "other"), "model.tata={sizes: [64]}"]) == 2
    assert "MaskRCNN has no option 'tata'; it knows: " in capsys.readouterr().err


def test_soft_nms_of_mask_rcnn_is_a_key(work):
    predictor = Predictor(
        work / "detector.pth", "cpu", overrides=["model.roi_heads.nms={method: quad, threshold: 0.3}"]
    )
    image = np.asarray(Image.open(work / "data" / "images" / "1.png"))
    soft = predictor(image).pred_instances
    hard = Predictor(work / "detector.pth", "cpu")(image).pred_instances
    assert soft.scores[0] == hard.scores[0]
    assert not torch.equal(soft.scores, hard.scores)
    with pytest.raises(ConfigError, match="RoIHeads has no option 'nmss'"):
        Predictor(work / "detector.pth", "cpu", overrides=["model.roi_heads.nmss={}"])
