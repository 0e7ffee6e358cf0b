"""From the frame of the network's input to the frame of the photograph."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from pe_spatial.data import place_columns, place_profiles
from pe_spatial.detection.mask_rcnn.roi_heads import Detections

_THRESHOLD = 0.5  # smallest probability that is pasted
_LARGE = 2**20  # pixels from which on a mask is never computed pixel by pixel
_BELOW = float(torch.tensor(_THRESHOLD).nextafter(torch.tensor(0.0)))


def rescale(found: Detections, image_size: tuple[int, int], original_size: tuple[int, int]) -> InstanceData:
    """Bring detections into the original frame; those without area there are dropped.

    Args:
        found: Detections in pixels of the network's input.
        image_size: (H, W) of the image inside that input, without padding.
        original_size: (H, W) of the photograph.

    Returns:
        `bboxes` [N, 4], `scores` [N], `labels` [N] and, where there is a mask head, `masks`, RLEs of the photograph.
    """
    (height, width), (original_height, original_width) = image_size, original_size
    ratio = found.boxes.new_tensor([original_width / width, original_height / height] * 2)
    boxes = clip_boxes_to_image(found.boxes * ratio, original_size)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    instances = InstanceData(bboxes=boxes[keep], scores=found.scores[keep], labels=found.labels[keep])
    if found.masks is not None:
        instances.masks = paste_masks(found.masks[keep], boxes[keep], original_size)
    return instances


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
    """The masks of boxes in the image, as RLEs; the pixels of a large one never exist.

    A pixel's value is the bilinear sample of the mask at the pixel's center, zero outside of the mask; those from 0.5
    on belong to the object. The samples of a mask form a grid, so that they are two matrix products: rows · mask ·
    columns.

    Args:
        masks: [N, M, M] probabilities.
        boxes: [N, 4] xyxy in pixels of the image, of positive area.
        size: (H, W) of the image.
    """
    masks, boxes = masks.detach(), boxes.detach()
    with torch.autocast(masks.device.type, enabled=False):
        return [_paste(*each, size) for each in zip(masks.float(), boxes.float(), boxes.tolist(), strict=True)]


def _paste(mask: Tensor, box: Tensor, corners: Sequence[float], size: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = corners
    rows, columns = _reach(top, bottom, size[0], mask.shape[0]), _reach(left, right, size[1], mask.shape[1])
    across = _interpolation(box[0], box[2], columns, mask.shape[1])  # [w, M]
    place = (rows.start, columns.start)
    if len(rows) * len(columns) > _LARGE:
        profiles = across @ F.pad(mask.T, (1, 1))  # 0 above and below
        entry = (_positions(box[1], box[3], rows, mask.shape[0]) + 1).clamp(0, mask.shape[0] + 1)
        lower = entry.long().clamp(max=mask.shape[0])
        values, before, part = (each.cpu().numpy() for each in (profiles, lower, entry - lower))
        return place_profiles(values, before, part, _BELOW, place, size)
    down = _interpolation(box[1], box[3], rows, mask.shape[0]) @ mask  # [h, M]
    return place_columns([across @ down.T >= _THRESHOLD], place, size)


def _reach(start: float, end: float, pixels: int, cells: int) -> range:
    """The pixels along a side of the image that a mask over [start, end] can have a value at, and one more."""
    cell = (end - start) / cells
    first = min(max(math.floor(start - cell) - 1, 0), pixels)
    return range(first, min(max(math.ceil(end + cell) + 1, first), pixels))


def _positions(start: Tensor, end: Tensor, pixels: range, cells: int) -> Tensor:
    """Where pixels lie [len(pixels)], in cells from the middle of the first of those that divide [start, end]."""
    center = torch.arange(pixels.start, pixels.stop, device=start.device, dtype=torch.float32) + 0.5
    return (center - start) / (end - start) * cells - 0.5


def _interpolation(start: Tensor, end: Tensor, pixels: range, cells: int) -> Tensor:
    """Weights [len(pixels), cells] of linear interpolation between cells that divide [start, end] equally."""
    cell = torch.arange(cells, device=start.device, dtype=torch.float32)
    return (1 - (_positions(start, end, pixels, cells)[:, None] - cell).abs()).clamp(min=0)
