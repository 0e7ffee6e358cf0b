"""The official Mask R-CNN on known weights and a known picture.

The reference numbers were made with weights drawn by `golden_rule` for every key but those with "anchor" in their
name: the two tensors of `anchor_deltas` kept the values that they were initialized with (normal, 0.01). Those weights
were recovered from the reference's proposals (they solve a linear system of full rank, and continue the generator of
seed 0) and are in `maskrcnn_coco_anchor_deltas.npz`.
"""

import json

import numpy as np
import pytest
import torch
from golden_rule import DATA, ENCODER, draw_for, scale
from mmengine.structures import BaseDataElement

from pe_spatial.detection.conversion import from_detectron2
from pe_spatial.detection.mask_rcnn import MaskRCNN


def official_weights():
    keys = json.loads((DATA / "maskrcnn_coco_keys.json").read_text())
    weights = {key: scale(key, draw_for(key, shape)) for key, shape in keys.items()}
    deltas = np.load(DATA / "maskrcnn_coco_anchor_deltas.npz")
    for name in ("weight", "bias"):
        weights[f"proposal_generator.rpn_head.anchor_deltas.{name}"] = torch.from_numpy(deltas[name])
    return weights


def picture():
    x, y = np.meshgrid(np.arange(256), np.arange(200))
    waves = np.stack([np.sin(x / 17 + y / 29), np.sin(x / 41 - y / 13 + 1), np.cos(x * y / 997 + 2)])
    return torch.from_numpy(np.rint(127.5 * (1 + waves)).astype(np.uint8))


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "maskrcnn_coco.npz")


@pytest.fixture(scope="module")
def result():
    """Pyramid, proposals and detections of our model."""
    backbone = {"type": "PEBackbone", "variant": ENCODER, "window": 8, "global_blocks": (1, 3)}
    model = MaskRCNN(
        num_classes=80,
        backbone={**backbone, "rope": "interpolate", "pos_embed": "tile"},
        neck={"type": "SimpleFeaturePyramid"},
        roi_heads={"score_threshold": 0.0},
        data_preprocessor={
            "type": "DensePreprocessor",
            "mean": [127.0] * 3,
            "std": [127.0] * 3,
            "pad_to": (256, 256),
        },
    ).eval()
    model.load_state_dict(from_detectron2(official_weights())[0], strict=True)
    sample = BaseDataElement(metainfo={"img_shape": (200, 256), "ori_shape": (400, 512)})
    with torch.no_grad():
        data = model.data_preprocessor({"inputs": [picture()], "data_samples": [sample]})
        features = model(data["inputs"], mode="tensor")
        proposals = model.rpn.predict(features, [(200, 256)])[0]
        # the model runs once more from the start: what a user calls is what is compared
        detections = model(**data, mode="predict")[0].pred_instances
    return features, proposals, detections


@pytest.mark.parametrize(
    ("level", "key", "step"),
    [(0, "p2_every8", 8), (1, "p3_every4", 4), (2, "p4_every2", 2), (3, "p5", 1), (4, "p6", 1)],
)
def test_pyramid(result, golden, level, key, step):
    np.testing.assert_allclose(result[0][level][..., ::step, ::step].numpy(), golden[f"fpn/{key}"], atol=2e-5)


def test_proposals(result, golden):
    boxes, logits = result[1]
    np.testing.assert_allclose(logits.numpy(), golden["proposals/logits"], atol=1e-4)
    # logits closer to each other than rounding may change places, so boxes are compared as sets
    distance = torch.cdist(boxes.double(), torch.from_numpy(golden["proposals/boxes"]).double(), p=torch.inf)
    assert distance.min(dim=0).values.max() < 0.05
    assert distance.min(dim=1).values.max() < 0.05


def test_detections(result, golden):
    found = result[2]
    np.testing.assert_allclose(found.bboxes.numpy(), golden["boxes"], atol=0.05)
    np.testing.assert_allclose(found.scores.numpy(), golden["scores"], atol=1e-4)
    np.testing.assert_array_equal(found.labels.numpy(), golden["classes"])


def test_masks(result, golden):
    found = result[2]
    assert found.masks.shape == (100, 400, 512)
    assert np.abs(found.masks.sum(dim=(1, 2)).numpy() - golden["mask_area"]).max() <= 3
    expected = np.unpackbits(golden["masks_first8_packed"], axis=-1).astype(bool)
    assert (found.masks[:8].numpy() != expected).sum() <= 5
