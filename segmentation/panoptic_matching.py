"""Panoptic quality (Kirillov et al., arXiv:1801.00868), counted as COCO's panopticapi does.

A prediction and a segment match if they have one class and an IoU above one half. The union leaves out the pixels of
the prediction of which nothing is known (void), and nothing else: those on a crowd stay in it. A crowd matches nothing
and cannot be missed. A prediction without a match is not counted as false if more than half of it lies in void and the
crowd of its own class. Where an image has several crowds of one class, that is the last of them, as in panopticapi.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# rows of a tally: sum of the IoUs of matches, matches, unmatched predictions, unmatched truth
_IOU, _MATCHED, _FALSE, _MISSED = range(4)


class Truth(NamedTuple):
    """The segments of an image, no two of which share a pixel.

    Args:
        ids: [H, W], the number of the segment, from 1; 0 where nothing is known.
        labels: Of the segments, int64 [G].
        is_crowd: bool [G].
    """

    ids: Tensor
    labels: Tensor
    is_crowd: Tensor


class Match(NamedTuple):
    """A predicted segment and what it is.

    Args:
        segment: Its number in the prediction.
        label: Its class.
        number: The true segment of its class that it matches, from 1; 0 for none.
        iou: With that segment.
        is_judged: Whether it counts: a match, or a false one that does not lie in void or a crowd.
        mistaken: The true segment of another class that it matches; 0 for none.
    """

    segment: int
    label: int
    number: int
    iou: float
    is_judged: bool
    mistaken: int


def match(predicted: Tensor, segments: Sequence[Mapping[str, Any]], truth: Truth) -> tuple[list[Match], set[int]]:
    """Compare one image.

    Args:
        predicted: Segment ids [H, W], 0 where nothing was found.
        segments: `id` and `label` of every predicted segment.
        truth: The annotation.

    Returns:
        The predicted segments, and the numbers of the true ones, from 1, that none of their class matches.
    """
    count = max([int(predicted.max()), *(segment["id"] for segment in segments)]) + 1
    true_count = len(truth.labels) + 1
    pairs = predicted.long() * true_count + truth.ids.long()
    overlap = torch.bincount(pairs.flatten(), minlength=count * true_count).reshape(count, true_count).double().cpu()
    area, true_area = overlap.sum(1), overlap.sum(0)
    label_of = dict(enumerate(truth.labels.tolist(), start=1))
    is_crowd = dict(enumerate(truth.is_crowd.tolist(), start=1))
    objects = [number for number in label_of if not is_crowd[number] and true_area[number] > 0]
    crowd_of = {label: number for number, label in label_of.items() if is_crowd[number]}  # the last of a class
    missed, matches = set(objects), []
    for segment in segments:
        row, label, whole = overlap[segment["id"]], segment["label"], area[segment["id"]]
        iou = row / (whole - row[0] + true_area - row).clamp_min(1)
        hits = [number for number in objects if iou[number] > 0.5]  # never more than one: two halves leave no room
        number = hits[0] if hits and label_of[hits[0]] == label else 0
        forgiven = row[0] + (row[crowd_of[label]] if label in crowd_of else 0)
        is_judged = bool(number) or bool(whole > 0 and forgiven <= 0.5 * whole)
        missed.discard(number)
        mistaken = hits[0] if hits and not number else 0
        matches.append(Match(segment["id"], label, number, float(iou[number]) if number else 0.0, is_judged, mistaken))
    return matches, missed


def tally(predicted: Tensor, segments: Sequence[Mapping[str, Any]], truth: Truth, num_classes: int) -> Tensor:
    """Count one image; the arguments are those of `match`.

    Returns:
        float64 [4, K] on the CPU: per class the sum of the IoUs of matches, their number, and the numbers of unmatched
        predictions and of unmatched true segments.
    """
    return count_matches(*match(predicted, segments, truth), truth, num_classes)


def count_matches(matches: Sequence[Match], missed: set[int], truth: Truth, num_classes: int) -> Tensor:
    """The sums of `tally` from what `match` returns."""
    result = torch.zeros(4, num_classes, dtype=torch.float64)
    for found in matches:
        if found.number:
            result[_IOU, found.label] += found.iou
            result[_MATCHED, found.label] += 1
        elif found.is_judged:
            result[_FALSE, found.label] += 1
    for number in missed:
        result[_MISSED, int(truth.labels[number - 1])] += 1
    return result


def panoptic_quality(total: Tensor) -> Tensor:
    """PQ, SQ and RQ in percent, [3, K], from summed tallies [4, K]; NaN for classes that do not occur."""
    iou, matched, false, missed = total
    occurs = matched + false + missed > 0
    recognition = matched / (matched + false / 2 + missed / 2)
    segmentation = torch.where(matched > 0, iou / matched.clamp_min(1), torch.zeros_like(iou))
    quality = 100 * torch.stack([segmentation * recognition, segmentation, recognition])
    return torch.where(occurs, quality, torch.nan)
