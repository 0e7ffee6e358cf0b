"""From masks and classes of queries to pixels, objects and segments of one image."""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.parts import unpad
from pe_spatial.data import box_of_mask, encode_masks
from pe_spatial.segmentation.cell_grid import LARGE, as_indices, grid_of
from pe_spatial.segmentation.cell_sums import CellSums
from pe_spatial.segmentation.mask_decoder.large_frames import LargeMask, Owners, mask_of, owners_of

Segment = dict[str, Any]

_STRIP = 2**18  # pixels that are counted at a time


def semantic_scores(logits: Tensor, class_logits: Tensor) -> Tensor:
    """Scores [B, K, h, w]: every query votes for its classes where its mask is (MaskFormer, arXiv:2107.06278).

    Args:
        logits: [B, Q, h, w].
        class_logits: [B, Q, K+1].
    """
    classes = class_logits.float().softmax(-1)[..., :-1]
    return torch.einsum("bqhw,bqk->bkhw", logits.float().sigmoid(), classes)


class Frame:
    """The original image of a sample, in whose pixels the maps of the network are read.

    Args:
        sample: See `unpad`.
        padded: (H, W) of the model's input.
        large: See `grid_of`.

    Attributes:
        sums: Over the cells of a large picture.
    """

    def __init__(self, sample: BaseDataElement, padded: tuple[int, int], large: int = LARGE) -> None:
        self.sample, self.padded = sample, padded
        grid = grid_of(sample, large)
        self.sums = None if grid is None else CellSums(grid)

    def seen(self, maps: Tensor) -> Tensor:
        """Maps [M, h', w'] at the size of the model's input, without padding, [M, h, w]."""
        whole = F.interpolate(maps.detach()[None].float(), self.padded, mode="bilinear", align_corners=False)[0]
        height, width = self.sample.img_shape[:2]
        return whole[:, :height, :width]

    def resize(self, maps: Tensor) -> Tensor:
        """Maps [M, h', w'] at the size of the original image, [M, H, W]."""
        whole = F.interpolate(maps[None].float(), self.padded, mode="bilinear", align_corners=False)
        return unpad(self.sample, whole[0])

    def labels(self, scores: Tensor) -> Tensor:
        """The largest of the maps [K, h', w'] at every pixel, int64 [1, H, W]."""
        if self.sums is None:
            return self.resize(scores).argmax(0, keepdim=True)
        return as_indices(self.sums.grid.labels(self.seen(scores)))[None]

    def masks(self, logits: Tensor) -> Iterator[LargeMask]:
        """The pixels of the original image where each of the maps [M, h', w'] is above 0; one at a time exists."""
        for each in logits.split(1):
            if self.sums is not None:
                yield mask_of(self.sums, self.seen(each)[0])
                continue
            large = self.resize(each)
            inside = large > 0
            area = inside.sum()
            certainty = (large.sigmoid() * inside).flatten(1).sum(1)[0] / area.clamp_min(1)
            yield LargeMask(encode_masks(inside)[0], int(area), certainty)


def instances_of(
    logits: Tensor, class_logits: Tensor, things: Collection[int], frame: Frame, most: int
) -> InstanceData:
    """The objects of one image, best first.

    Every pair of a query and a countable class is a candidate. Its score is the probability of the class times the mean
    probability of the mask inside itself (Mask2Former).

    Args:
        logits: [Q, h, w].
        class_logits: [Q, K+1].
        things: Labels of countable classes.
        frame: The original image.
        most: Candidates that are kept.

    Returns:
        `bboxes` [N, 4] xyxy, `labels` [N], `scores` [N] and `masks`, RLEs of the image, without empty masks.
    """
    names = torch.tensor(sorted(things), device=logits.device)
    classes = class_logits.float().softmax(-1)[:, names]  # [Q, T]
    scores, flat = classes.flatten().topk(min(most, classes.numel()))
    queries, labels = flat // len(names), names[flat % len(names)]
    asked = queries.unique().tolist()
    found = dict(zip(asked, frame.masks(logits[asked]), strict=True))  # several classes may ask for one mask
    masks = [found[query] for query in queries.tolist()]
    scores = scores * torch.stack([mask.certainty for mask in masks]).to(scores) if masks else scores
    order = scores.argsort(descending=True)
    order = order[torch.tensor([mask.area > 0 for mask in masks], dtype=torch.bool, device=order.device)[order]]
    kept = [masks[row].rle for row in order.tolist()]
    boxes = scores.new_tensor([box_of_mask(rle) for rle in kept]).reshape(-1, 4)
    return InstanceData(bboxes=boxes, labels=labels[order], scores=scores[order], masks=kept)


def panoptic_of(
    logits: Tensor,
    class_logits: Tensor,
    things: Collection[int],
    frame: Frame,
    least_score: float = 0.8,
    least_visible: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Every pixel of one image in at most one segment.

    Each pixel goes to the query with the largest probability of its class times that of its mask at the pixel, and
    belongs to it where that mask is on (above one half). A query of which less than `least_visible` is left so is
    dropped; areas of one class that is not countable are joined.

    Args:
        logits: [Q, h, w].
        class_logits: [Q, K+1].
        things: Labels of countable classes.
        frame: The original image.
        least_score: Probability of its class below which a query does not take part.
        least_visible: Share of a mask.

    Returns:
        Segment ids int32 [H, W], 0 for none, and {id, label, score, area, is_thing} of each segment, ids from 1.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = (labels < class_logits.shape[-1] - 1) & (scores >= least_score)
    scores, labels, logits = scores[kept], labels[kept], logits[kept]
    owners = _owners(logits, scores, frame)
    visible = owners.visible()
    new_ids = torch.zeros(len(scores) + 1, dtype=torch.int32, device=logits.device)  # by owner, the last for none
    segments: dict[Any, Segment] = {}
    for number, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        area = visible[number]
        if area == 0 or area < least_visible * owners.wholes[number]:
            continue
        is_thing = label in things
        new = {"id": len(segments) + 1, "label": label, "score": score, "area": 0, "is_thing": is_thing}
        segment = segments.setdefault(("thing", number) if is_thing else label, new)
        segment["area"] += area
        segment["score"] = max(segment["score"], score)
        new_ids[number] = segment["id"]
    return owners.numbered(new_ids), list(segments.values())


def _owners(logits: Tensor, scores: Tensor, frame: Frame) -> Owners:
    """The query that owns each pixel."""
    size = (int(frame.sample.ori_shape[0]), int(frame.sample.ori_shape[1]))
    if len(logits) and frame.sums is not None:
        return owners_of(frame.sums, frame.seen(logits), scores)
    best = torch.zeros(size, device=logits.device)
    owner = torch.full(size, -1, dtype=torch.int16, device=logits.device)
    wholes = []
    for number, (score, mask) in enumerate(zip(scores, logits, strict=True)):  # one at a time: Q masks may not fit
        probability = frame.resize(mask[None])[0].sigmoid()
        inside = probability >= 0.5
        wholes.append(int(inside.sum()))
        better = score * probability > best
        best = torch.where(better, score * probability, best)
        owner = torch.where(better, torch.where(inside, number, -1).to(torch.int16), owner)
    rows = max(_STRIP // max(size[1], 1), 1)  # 64-bit copies of all of it are large
    starts = range(0, size[0], rows)
    parts = [
        ((slice(top, top + len(strip)), slice(0, size[1])), strip)
        for top, strip in zip(starts, owner.split(rows), strict=True)
    ]
    return Owners(size, wholes, parts)
