"""Which detections are right: one to one with the objects of an image, by class and by an IoU of boxes of one half.

The rule is COCO's at its first threshold: detections are taken in the order of their scores, each gets the free object
of its class with the greatest IoU. One without an object that lies in a crowd of its class, or whose class is not
annotated in the image, is not judged. N objects, M detections, K classes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOU = 0.5
THRESHOLDS = tuple(step / 100 for step in range(5, 100, 5))  # of the score
_DEFAULT_THRESHOLD = 0.5


@dataclass
class Judged:
    """The objects and the detections of an image, and which of them belong together.

    Args:
        truth: Boxes [N, 4] xywh, pixels.
        truth_labels: [N], 0…K-1.
        found: Boxes [M, 4] xywh.
        labels: [M].
        scores: [M].
        crowds: Boxes [C, 4] xywh of regions that are no objects.
        crowd_labels: [C].
        unjudged: Classes of which not every object of this image is annotated.
        content: Whatever a picture needs.

    Attributes:
        object_of: int [M], the object of each detection, or -1.
        is_judged: bool [M].
    """

    truth: NDArray[np.float64]
    truth_labels: NDArray[np.int64]
    found: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    crowds: NDArray[np.float64]
    crowd_labels: NDArray[np.int64]
    unjudged: Collection[int] = ()
    content: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        same = np.where(self.labels[:, None] == self.truth_labels, self._iou(), 0.0)
        self.object_of = np.full(len(self.labels), -1)
        for detection, number in _assign(same, self.scores):
            self.object_of[detection] = number
        overlap, own, _ = _overlaps(self.found, self.crowds)
        inside = (overlap >= 0.5 * own[:, None]) & (self.labels[:, None] == self.crowd_labels)
        unknown = np.isin(self.labels, list(self.unjudged))
        self.is_judged = (self.object_of >= 0) | ~(inside.any(axis=1) | unknown)

    def _iou(self) -> NDArray[np.float64]:
        """[M, N]; not kept, for an evaluation has many images."""
        overlap, own, area = _overlaps(self.found, self.truth)
        return overlap / np.maximum(own[:, None] + area - overlap, 1e-9)

    def counts(self, threshold: float) -> tuple[int, int, int]:
        """True positives, false positives and missed objects, of the detections that score so much."""
        kept = (self.scores >= threshold) & self.is_judged
        right = int((self.object_of[kept] >= 0).sum())
        return right, int(kept.sum()) - right, len(self.truth) - right

    def f1(self, threshold: float) -> float:
        """Of this image; NaN where there is nothing to find and nothing was found."""
        return f1_score(*self.counts(threshold))

    def confused(self, threshold: float) -> Iterator[tuple[int, int]]:
        """(detection, object) of different classes, each at most once, of those without a partner."""
        left = (self.scores >= threshold) & self.is_judged & (self.object_of < 0)
        kept = (self.scores >= threshold) & (self.object_of >= 0)
        free = np.ones(len(self.truth), bool)
        free[self.object_of[kept]] = False
        yield from _assign(np.where(left[:, None] & free, self._iou(), 0.0), self.scores)

    def add_confusion(self, counts: NDArray[np.int64], threshold: float) -> None:
        """Count this image in [K + 1, K + 1], in place: rows are true, columns predicted classes, the last is none."""
        none = len(counts) - 1
        pairs = dict(self.confused(threshold))
        missed = set(range(len(self.truth))) - set(pairs.values())
        for detection in np.flatnonzero((self.scores >= threshold) & self.is_judged):
            number = int(self.object_of[detection])
            number = pairs.get(int(detection), -1) if number < 0 else number
            missed.discard(number)
            counts[none if number < 0 else self.truth_labels[number], self.labels[detection]] += 1
        for number in missed:
            counts[self.truth_labels[number], none] += 1


def f1_score(right: int, false: int, missed: int) -> float:
    """2 TP / (2 TP + FP + FN); NaN where all are 0."""
    whole = 2 * right + false + missed
    return 2 * right / whole if whole else float("nan")


def best_threshold(images: Sequence[Judged]) -> float:
    """The threshold of the score, among multiples of 0.05, with the greatest F1 over all images; the lowest of equals.

    0.5 where no detection is right.
    """
    counts = np.array([[image.counts(threshold) for threshold in THRESHOLDS] for image in images])  # [I, T, 3]
    f1 = [f1_score(*map(int, row)) for row in counts.reshape(-1, len(THRESHOLDS), 3).sum(axis=0)]
    best = int(np.argmax(np.nan_to_num(f1)))
    return THRESHOLDS[best] if f1[best] > 0 else _DEFAULT_THRESHOLD


def confusion(images: Sequence[Judged], classes: int, threshold: float) -> NDArray[np.int64]:
    """[K + 1, K + 1] over all images; see `Judged.add_confusion`."""
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for image in images:
        image.add_confusion(counts, threshold)
    return counts


def _overlaps(
    boxes: NDArray[np.float64], others: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Areas that boxes [M, 4] and others [N, 4], xywh, share [M, N], and their own areas."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[:, :2] + others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=2), boxes[:, 2:].prod(axis=1), others[:, 2:].prod(axis=1)


def _assign(iou: NDArray[np.float64], scores: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """(row, column) of an IoU of a half or more: rows by their scores, each takes its best free column."""
    iou = iou.copy()
    rows = np.flatnonzero((iou >= IOU).any(axis=1)) if iou.shape[1] else np.empty(0, int)
    for row in rows[np.argsort(-scores[rows], kind="stable")]:
        column = int(iou[row].argmax())
        if iou[row, column] >= IOU:
            iou[:, column] = 0
            yield int(row), column
