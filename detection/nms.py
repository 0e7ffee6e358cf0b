"""Suppression of detections that repeat each other, hard and soft, without a loop over boxes.

Soft-NMS (Bodla et al., 2017, arXiv:1704.04503) takes the best remaining box again and again and lowers the scores of
those that overlap it. What a box does to others depends only on who is before it among its own neighbors, so every box
that beats all of its neighbors can act at once: one round of tensor operations computes all of them. There are as many
rounds as the longest chain of boxes that wait for each other, not as many as boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, nms

from pe_spatial.common.errors import OptionError, require_choice

Method = Literal["nms", "linear", "quad", "gaussian"]
_BLOCK = 2**16  # pairs that are compared at once; larger blocks compare more boxes of different classes in vain
_BLOCK_ROWS = 64  # rows of a block at least, so that there are not too many blocks


@MODELS.register_module()
@dataclass(frozen=True)
class Suppression:
    """Suppression within every class.

    Args:
        method: What a box does to the score of a weaker one that it overlaps by an IoU u: `nms` removes it where u
            exceeds `threshold`, and `linear` and `quad` multiply it there by 1 - u and by (1 - u)^scale;
            `gaussian` multiplies it everywhere by exp(-u² / scale).
        threshold: IoU below which boxes leave each other alone.
        scale: Exponent of `quad`, or denominator of `gaussian`.
        min_score: The soft methods drop what scores no more than this in the end.
    """

    method: Method = "nms"
    threshold: float = 0.7
    scale: float = 0.5
    min_score: float = 0.001

    def __post_init__(self) -> None:
        require_choice("suppression", self.method, get_args(Method))
        if not 0 <= self.threshold <= 1:
            raise OptionError(f"threshold {self.threshold} is not an IoU; give a number from 0 to 1")
        if self.scale <= 0:
            raise OptionError(f"scale {self.scale} must be above 0; {self.method} would raise scores or divide by 0")
        if not 0 <= self.min_score < 1:
            raise OptionError(f"min_score {self.min_score} is not a score below 1; give a number from 0 to 1")

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Suppress among boxes [N, 4] (xyxy) with scores [N] and labels [N].

        Returns:
            Indices [M] of what stays, best first, and the scores [M], lowered by the soft methods.
        """
        if self.method == "nms":
            keep = batched_nms(boxes.float(), scores.float(), labels, self.threshold)
            return keep, scores[keep]
        pairs = overlapping_pairs(boxes, labels, 0.0 if self.method == "gaussian" else self.threshold)
        final = resolve_suppression(scores, pairs._replace(value=self._factor(pairs.value)), self.min_score)
        keep = (final > self.min_score).nonzero().squeeze(1)
        keep = keep[final[keep].argsort(descending=True, stable=True)]
        return keep, final[keep]

    def suppress(self, found: InstanceData, most: int | None) -> InstanceData:
        """Suppress among detections with `bboxes`, `scores` and `labels`.

        Args:
            found: Detections of an image.
            most: How many stay at most; None sets no limit.

        Returns:
            What stays, best first, with the lowered scores.
        """
        keep, scores = self(found.bboxes, found.scores, found.labels)
        kept = found[keep[:most]]
        kept.scores = scores[:most]
        return kept

    def fixed(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, num_classes: int, most: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Suppress in tensors whose sizes follow no values; for graphs, of the hard method.

        Args:
            boxes: [N, 4] xyxy, finite.
            scores: [N]; -inf where there is no box.
            labels: [N] in 0…K-1.
            num_classes: K.
            most: How many stay at most, from 1 to N.

        Returns:
            Boxes [most, 4], scores [most] and labels [most], best first; the rest, where fewer stay, is zero.
        """
        keep = survivors(set_apart(boxes, labels, num_classes), scores, self.threshold)
        score, best = torch.where(keep, scores, -torch.inf).topk(most)
        nothing = score.isneginf()
        box, label = boxes[best].masked_fill(nothing[:, None], 0.0), labels[best].masked_fill(nothing, 0)
        return box, score.masked_fill(nothing, 0.0), label

    def require_hard(self) -> None:
        """Refuse the soft methods, whose number of rounds follows the boxes, where a graph of fixed sizes is wanted.

        Raises:
            OptionError: The method is a soft one.
        """
        if self.method != "nms":
            raise OptionError(
                f"suppression {self.method!r} takes as many rounds as the boxes need, and a graph has a fixed number "
                "of steps; export the graph without suppression (kind 'raw'), or set the method to 'nms'"
            )

    def _factor(self, overlap: Tensor) -> Tensor:
        if self.method == "gaussian":
            return torch.exp(-overlap.square() / self.scale)
        return (1 - overlap) ** (self.scale if self.method == "quad" else 1.0)


def survivors(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Which boxes hard suppression leaves, as a mask of fixed size; for graphs.

    Args:
        boxes: [N, 4] xyxy, finite.
        scores: [N]; boxes that do not count score -inf, so that they suppress no other box.
        threshold: IoU from which on the weaker box goes.

    Returns:
        [N] bool.
    """
    # torchvision tells torch.export that two boxes survive at least: two without area always do
    boxes, scores = F.pad(boxes, (0, 0, 0, 2)), F.pad(scores, (0, 2), value=-torch.inf)
    kept = nms(boxes, scores, threshold)
    return torch.zeros_like(scores).scatter(0, kept, 1.0)[:-2] > 0


def set_apart(boxes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Move the boxes [N, 4] of every class to a field of their own, so that no two classes overlap; for graphs.

    The fields form a square, so that coordinates grow by the root of the number of classes. Rounding moves a border by
    less than 0.001 pixels with 80 classes at 1024 pixels, and by 0.002 with 1203.

    Args:
        boxes: xyxy, finite.
        labels: [N] in 0…K-1.
        num_classes: K.
    """
    columns = math.ceil(math.sqrt(num_classes))
    row = torch.div(labels, columns, rounding_mode="floor")
    cell = torch.stack([labels - row * columns, row], 1).to(boxes.dtype)  # [N, 2]
    field = boxes.max() - boxes.min() + 1
    return boxes + (cell * field).repeat(1, 2)


class OverlapPairs(NamedTuple):
    """E ordered pairs of boxes: `source` [E] acts on `target` [E] with `value` [E]."""

    source: Tensor
    target: Tensor
    value: Tensor

    def where(self, mask: Tensor) -> OverlapPairs:
        """The pairs of a mask [E]."""
        return OverlapPairs(self.source[mask], self.target[mask], self.value[mask])


def overlapping_pairs(boxes: Tensor, labels: Tensor, threshold: float) -> OverlapPairs:
    """All pairs of different boxes of one class whose IoU exceeds `threshold`, in both orders, with the IoU.

    Only boxes of one class are compared, a block at a time, so memory follows the overlaps that there are.
    """
    order = labels.argsort(stable=True)
    sorted_boxes, sorted_labels = boxes[order].float(), labels[order].contiguous()
    found = list(_blocks(sorted_boxes, sorted_labels, threshold))
    if not found:
        none = order.new_empty(0)
        return OverlapPairs(none, none, boxes.new_empty(0, dtype=torch.float32))
    source, target, value = (torch.cat(column) for column in zip(*found, strict=True))
    source, target = order[source], order[target]
    return OverlapPairs(torch.cat([source, target]), torch.cat([target, source]), torch.cat([value, value]))


def _blocks(boxes: Tensor, labels: Tensor, threshold: float) -> Iterator[OverlapPairs]:
    """Pairs (i, j), i < j, of boxes that are sorted by class, some rows at a time."""
    ends = torch.searchsorted(labels, labels, right=True)  # of the class of every row
    room = max(_BLOCK, _BLOCK_ROWS * len(labels))
    rows = torch.arange(1, len(labels) + 1, device=labels.device)
    start = 0
    while start < len(labels):
        # a block reaches from its first row to the end of the class of its last row; it takes the rows that it can hold
        sizes = rows[: len(labels) - start] * (ends[start:] - start)
        stop = start + max(1, int(torch.searchsorted(sizes, room, right=True)))
        end = int(ends[stop - 1])
        overlap = box_iou(boxes[start:stop], boxes[start:end])  # [rows, columns]
        same = labels[start:stop, None] == labels[None, start:end]
        row, column = ((overlap > threshold) & same).triu(diagonal=1).nonzero(as_tuple=True)
        yield OverlapPairs(row + start, column + start, overlap[row, column])
        start = stop


def resolve_suppression(scores: Tensor, pairs: OverlapPairs, min_score: float) -> Tensor:
    """Final scores [N] of Soft-NMS.

    Args:
        scores: [N]; of equal ones the first comes first.
        pairs: Who lowers whose score by which factor, in both orders.
        min_score: Boxes that score no more than this suppress no other box; their final scores are not exact.
    """
    current = scores.float().clone()
    while len(pairs.source):
        source, target = current[pairs.source], current[pairs.target]
        wins = (source > target) | ((source == target) & (pairs.source < pairs.target))
        waits = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        waits[pairs.target[wins]] = True
        # scores only fall, so no box will overtake one that beats all of its neighbors now
        acting = pairs.where(~waits[pairs.source])
        current = current.scatter_reduce(0, acting.target, acting.value, "prod")
        alive = waits & (current > min_score)
        pairs = pairs.where(alive[pairs.source] & alive[pairs.target])
    return current
