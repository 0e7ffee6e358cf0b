"""The transforms that torchvision v2 lacks; those that resize are in `resizing.py`.

Detectron2's large-scale jitter at 1024 px, as a pipeline:

    - {type: LoadImage}
    - {type: LoadInstances, mask_format: polygon}
    - {type: torchvision.transforms.v2.RandomHorizontalFlip}
    - {type: ScaleJitter, target_size: [1024, 1024], scale_range: [0.1, 2.0]}
    - {type: FixedSizeCrop, size: [1024, 1024]}
    - {type: SanitizeInstances, fit_boxes: true, min_size: 1.0e-5}
    - {type: PackSample}
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from mmengine.utils import to_2tuple
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data.polygons import Polygons


@TRANSFORMS.register_module()
class FixedSizeCrop(v2.Transform):
    """Crop at a random place to at most `size`; a side that is shorter stays as it is (nothing is padded).

    Args:
        size: (H, W) in pixels, or the side of a square.
        with_object: Share of the crops that hold an object of the image, any of its objects equally often, at any place
            where all of it is inside. In a large picture with few small objects most other crops hold none.
    """

    def __init__(self, size: int | Sequence[int], with_object: float = 0.0) -> None:
        super().__init__()
        sides = to_2tuple(size)
        if len(sides) != 2 or min(sides) < 1:
            raise OptionError(f"size {list(sides)} is not (H, W) in pixels")
        if not 0 <= with_object <= 1:
            raise OptionError(f"with_object {with_object} is not a share of the crops; give a number from 0 to 1")
        self.size = (int(sides[0]), int(sides[1]))
        self.with_object = with_object

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One place for everything in the sample."""
        current = v2.query_size(flat_inputs)
        height, width = (min(side, limit) for side, limit in zip(current, self.size, strict=True))
        box = self._choose(flat_inputs)
        top = _place(current[0], height, None if box is None else (box[1], box[3]))
        left = _place(current[1], width, None if box is None else (box[0], box[2]))
        return {"top": top, "left": left, "height": height, "width": width}

    def _choose(self, flat_inputs: list[Any]) -> list[float] | None:
        """The box of an object that shall be inside, if any; the first boxes of a sample are those of its objects."""
        if self.with_object == 0 or torch.rand(()) >= self.with_object:
            return None
        boxes = next((part for part in flat_inputs if isinstance(part, tv_tensors.BoundingBoxes)), ())
        if not len(boxes):
            return None
        chosen: list[float] = boxes[int(torch.randint(len(boxes), ()))].tolist()
        return chosen

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop one tensor of the sample."""
        return F.crop(inpt, **params)


def _place(length: int, crop: int, inside: tuple[float, float] | None) -> int:
    """A random start of a crop along an axis, such that a part of the axis is inside, or else fills it."""
    first, last = 0, length - crop
    if inside is not None:
        ends = sorted((math.ceil(inside[1]) - crop, math.floor(inside[0])))
        first, last = (min(max(end, 0), length - crop) for end in ends)
    return first + int(torch.randint(last - first + 1, ()))


@TRANSFORMS.register_module()
class SanitizeInstances:
    """Remove the instances that a crop or a resize has emptied: boxes, labels and masks together.

    torchvision's SanitizeBoundingBoxes looks at boxes alone, keeps instances whose mask is empty, and removes the
    label map or depth of an image with one invalid box, taking the [1, H, W] map for that instance's mask.

    Args:
        min_size: Instances whose box, clamped to the image, is narrower or lower than this many pixels go. Detectron2
            keeps what is wider than 1e-5, which matters for polygons: what is left of a bitmap is a pixel at least.
        fit_boxes: Shrink every box to what is left of its mask, so that a cut object has the box of its visible part.
    """

    needs_labels = True

    def __init__(self, min_size: float = 1.0, fit_boxes: bool = False) -> None:
        if min_size <= 0:
            raise OptionError(f"min_size {min_size} must be above 0; it is the shortest side of a box in pixels")
        self.min_size = min_size
        self.fit_boxes = fit_boxes

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Filter one sample.

        Raises:
            OptionError: `fit_boxes` without masks.
        """
        if self.fit_boxes and "masks" not in sample:
            raise OptionError("fit_boxes=True needs masks; set masks=True in LoadInstances, or fit_boxes=False")
        return {
            **sample,
            **self._filter(sample, {"boxes": "boxes", "labels": "labels", "masks": "masks"}),
            **self._filter(sample, {"boxes": "ignored_boxes", "labels": "ignored_labels", "masks": "ignored_masks"}),
        }

    def _filter(self, sample: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
        columns = {role: sample[name] for role, name in names.items() if name in sample}
        if "boxes" not in columns:
            return {}
        if self.fit_boxes and "masks" in columns:
            columns["boxes"] = tv_tensors.wrap(_extents(columns["masks"]), like=columns["boxes"])
        columns["boxes"] = F.clamp_bounding_boxes(columns["boxes"])
        boxes = columns["boxes"].as_subclass(Tensor)
        valid = (boxes[:, 2:] - boxes[:, :2] >= self.min_size).all(dim=1)  # [N]
        if "masks" in columns:
            valid &= _visible(columns["masks"])
        return {names[role]: _select(column, valid) for role, column in columns.items()}


def _extents(masks: Tensor) -> Tensor:
    return masks.as_subclass(Tensor) if isinstance(masks, Polygons) else boxes_of_masks(masks)


def _visible(masks: Tensor) -> Tensor:
    """Whether anything is left of each mask, [N]."""
    if isinstance(masks, Polygons):
        return torch.tensor([len(outline) > 0 for outline in masks.outlines], dtype=torch.bool)
    return _any(masks, (1, 2))


def _select(column: Tensor, valid: Tensor) -> Tensor:
    if isinstance(column, Polygons):
        return column.select(valid)
    selected = column.as_subclass(Tensor)[valid]
    return tv_tensors.wrap(selected, like=column) if isinstance(column, tv_tensors.TVTensor) else selected


def _any(masks: Tensor, dim: int | tuple[int, int]) -> Tensor:
    # the maximum over bytes is ten times faster than torch's any
    return masks.as_subclass(Tensor).view(torch.uint8).amax(dim) > 0


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The smallest boxes [N, 4] around bool masks [N, H, W], xyxy with the far edge outside: one pixel is 1x1.

    An empty mask has the box (0, 0, 0, 0). torchvision.ops.masks_to_boxes gives the far pixel's index instead, and
    fails on empty masks.
    """
    extents = []
    for occupied in (_any(masks, 1), _any(masks, 2)):  # [N, W], [N, H]
        positions = torch.arange(1, occupied.shape[1] + 1, device=masks.device)
        last = (occupied * positions).amax(dim=1)
        first = torch.where(last > 0, occupied.int().argmax(dim=1), 0)
        extents.append((first, last))
    (x1, x2), (y1, y2) = extents
    return torch.stack([x1, y1, x2, y2], dim=1).float()
