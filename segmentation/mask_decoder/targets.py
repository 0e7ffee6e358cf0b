"""Targets of a mask decoder: segments, each a class and a mask."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data import require_bitmaps
from pe_spatial.data.sample import IGNORE_LABEL


class Segments(NamedTuple):
    """The ground truth of one image.

    A crowd is no segment, and yet its pixels are known: whatever they are, they belong to no segment. Panoptic quality
    keeps them in the union of a match, and AP does too; so a mask that reaches into a crowd is wrong there.

    Args:
        labels: int64 [G].
        masks: bool [G, H, W]; objects may overlap.
        valid: bool [H, W], False where nothing is known: no label, padding.
    """

    labels: Tensor
    masks: Tensor
    valid: Tensor


def segments_of(
    size: tuple[int, int],
    things: Collection[int],
    sem_seg: Tensor | None = None,
    instances: tuple[Tensor, Tensor] | None = None,
    crowds: tuple[Tensor, Tensor] | None = None,
) -> Segments:
    """Segments from a label map, from objects, or from both.

    With both, every object is a segment, and so is all area of a class of the label map that is not a thing. With a
    label map alone, or without things, all area of a class is one segment, less its crowds.

    Args:
        size: (H, W).
        things: Labels of countable classes.
        sem_seg: int64 [H, W], 255 = no label.
        instances: Labels [N] and masks bool [N, H, W] of things.
        crowds: Labels [M] and masks bool [M, H, W] of crowds, which lie under everything.

    Raises:
        OptionError: Neither a label map nor objects.
    """
    if not things:
        instances = None
    if sem_seg is None and instances is None:
        raise OptionError(
            "a sample without gt_sem_seg, and without things in gt_instances, has no segments; load one of them"
        )
    some = sem_seg if sem_seg is not None else instances[1]  # type: ignore[index]
    valid = torch.ones(size, dtype=torch.bool, device=some.device)
    labels = torch.zeros(0, dtype=torch.int64, device=some.device)
    masks = torch.zeros(0, *size, dtype=torch.bool, device=some.device)
    if sem_seg is not None:
        valid &= sem_seg != IGNORE_LABEL
        labels = sem_seg[valid].unique()
        if instances is not None:
            labels = labels[~torch.isin(labels, torch.tensor(sorted(things), device=labels.device))]
        masks = sem_seg == labels[:, None, None]  # [G, H, W]
        for label, crowd in zip(*(crowds or ((), ())), strict=True):
            masks[labels == label] &= ~crowd
        labels, masks = _visible(labels, masks)
    if instances is not None:
        objects = _visible(*instances)
        labels, masks = torch.cat([labels, objects[0]]), torch.cat([masks, objects[1]])
        valid |= instances[1].any(0)  # an object is known although the label map may not be
    if crowds is not None:
        valid |= crowds[1].any(0)
    return Segments(labels, masks, valid)


def _visible(labels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    kept = masks.flatten(1).any(1)
    return labels[kept], masks[kept]


def segments_of_sample(sample: BaseDataElement, size: tuple[int, int], things: Collection[int]) -> Segments:
    """Segments of a training sample, padded to `size` (H, W), the size of the batch.

    A model without things is scored by classes alone, where a crowd is area of its class like any other.
    """
    height, width = sample.img_shape[:2]
    instances = crowds = sem_seg = None
    name = sample.get("img_path")
    if "gt_instances" in sample:
        instances = sample.gt_instances.labels, require_bitmaps(sample.gt_instances, name, "the mask decoder")
    if things and "masks" in sample.get("ignored_instances", ()):
        crowds = (
            sample.ignored_instances.labels,
            require_bitmaps(sample.ignored_instances, name, "the mask decoder"),
        )
    if "gt_sem_seg" in sample:
        sem_seg = sample.gt_sem_seg.data[0, :height, :width]
    found = segments_of((height, width), things, sem_seg, instances, crowds)
    padding = (0, size[1] - width, 0, size[0] - height)
    return Segments(found.labels, F.pad(found.masks, padding), F.pad(found.valid, padding))
