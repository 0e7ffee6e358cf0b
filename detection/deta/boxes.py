"""Boxes relative to the image, as center and size."""

from __future__ import annotations

from torch import Tensor, logit
from torchvision.ops import box_convert


def to_corners(boxes: Tensor) -> Tensor:
    """cx, cy, w, h [..., 4] to x1, y1, x2, y2 [..., 4]."""
    return box_convert(boxes, "cxcywh", "xyxy")


def to_centers(boxes: Tensor) -> Tensor:
    """Inverse of `to_corners`."""
    return box_convert(boxes, "xyxy", "cxcywh")


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Logits of numbers, which are kept 1e-5 away from 0 and 1."""
    return logit(x, eps=1e-5)
