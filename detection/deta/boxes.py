"""Boxes relative to the image, as center and size."""

from torch import Tensor
from torchvision.ops import box_convert


def to_corners(boxes: Tensor) -> Tensor:
    """cx, cy, w, h [..., 4] to x1, y1, x2, y2 [..., 4]."""
    return box_convert(boxes, "cxcywh", "xyxy")
