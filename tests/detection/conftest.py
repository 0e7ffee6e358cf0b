"""A Mask R-CNN small enough to train in a test, and scenes of bright rectangles for it."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

import pe_spatial.backbones  # noqa: F401
import pe_spatial.data  # noqa: F401
import pe_spatial.detection  # noqa: F401 - registers
from pe_spatial.detection.mask_rcnn import MaskRCNN

ENCODER = {
    "name": "test",
    "patch_size": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "mlp_ratio": 2.0,
    "image_size": 64,
    "cls_token": False,
}


def model_settings(**changes):
    settings = {
        "num_classes": 3,
        "backbone": {"type": "PEBackbone", "variant": ENCODER},
        "neck": {"type": "SimpleFeaturePyramid", "out_channels": 16},
        "rpn": {
            "anchor_sizes": (16, 32, 64, 128, 256),
            "num_convs": 1,
            "pre_nms": (100, 50),
            "post_nms": (50, 30),
            "samples": 64,
        },
        "roi_heads": {
            "box_head": {"conv_channels": 16, "num_convs": 1, "fc_channels": 32},
            "mask_head": {"conv_channels": 16, "num_convs": 1},
            "samples": 32,
            "score_threshold": 0.0,
            "max_detections": 10,
        },
        "data_preprocessor": {"type": "DensePreprocessor", "size_divisor": 16},
    }
    return {**settings, **changes}


@pytest.fixture
def settings():
    return model_settings()


@pytest.fixture
def make_model():
    def build(**changes):
        torch.manual_seed(0)
        return MaskRCNN(**model_settings(**changes))

    return build


@pytest.fixture
def make_scene():
    return draw_scene


def draw_scene(seed, objects=2, size=(64, 64), scale=1):
    """One packed sample: rectangles whose color is their class, on a dark ground."""
    rng = np.random.default_rng(seed)
    H, W = size
    image = torch.randint(0, 40, (3, H, W), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    boxes, labels, masks = [], [], []
    for _ in range(objects):
        h, w = rng.integers(14, 30, 2)
        y, x = rng.integers(0, H - h), rng.integers(0, W - w)
        label = int(rng.integers(3))
        image[:, y : y + h, x : x + w] = 40
        image[label, y : y + h, x : x + w] = 240
        mask = torch.zeros(H, W, dtype=torch.bool)
        mask[y : y + h, x : x + w] = True
        boxes.append([x, y, x + w, y + h])
        labels.append(label)
        masks.append(mask)
    sample = BaseDataElement(metainfo={"img_shape": size, "ori_shape": (H * scale, W * scale), "img_id": seed})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=torch.stack(masks) if masks else torch.zeros(0, H, W, dtype=torch.bool),
    )
    return {"inputs": image, "data_samples": sample}


@pytest.fixture
def collate():
    return lambda scenes: {key: [scene[key] for scene in scenes] for key in ("inputs", "data_samples")}
