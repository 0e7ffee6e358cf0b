"""What panoptic quality means, which segments are taken for which, and pictures of right and wrong segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pe_spatial.segmentation.panoptic_matching import Match, Truth, panoptic_quality
from pe_spatial.training.explanation import ClassTable, Confusion, Explanation, Measure, Ranking, percent
from pe_spatial.visualization.judged import LONGEST_PANEL, JudgedInstances, draw_judged
from pe_spatial.visualization.layout import reducing_step

_NAMES = {
    "PQ": "panoptic quality: SQ times RQ",
    "SQ": "segmentation quality: mean IoU of the segments that are matched",
    "RQ": "recognition quality: F1 of the segments, of which an IoU above one half is a match",
}
_GROUPS = {"": "", "_things": " of things", "_stuff": " of stuff"}
PANOPTIC_MEASURES: dict[str, Measure] = {
    f"{key}{suffix}": percent(f"{key}{group}", f"{meaning}; mean over the classes{group}", 100)
    for suffix, group in _GROUPS.items()
    for key, meaning in _NAMES.items()
}
IMAGE_PQ = percent("panoptic quality", "mean over the classes of the picture")
_RULE = "segments, one to one at an IoU above 0.5; background is not a segment"


@dataclass(frozen=True)
class Segmented:
    """What a picture needs: small copies on the CPU."""

    predicted: Tensor  # segment ids [H, W]
    truth: Truth
    matches: Sequence[Match]
    missed: frozenset[int]

    @classmethod
    def of(cls, predicted: Tensor, truth: Truth, matches: Sequence[Match], missed: set[int]) -> "Segmented":
        """Of one image."""
        small = Truth(truth.ids.to(torch.int16).cpu(), truth.labels.cpu(), truth.is_crowd.cpu())
        return cls(predicted.to(torch.int32).cpu(), small, matches, frozenset(missed))


def confused_pairs(matches: Sequence[Match], missed: set[int], truth: Truth) -> list[tuple[int, int]]:
    """(true class, predicted class) of the segments of an image; -1 is none."""
    label = truth.labels.tolist()
    pairs, left = [], set(missed)
    for found in matches:
        number = found.number or (found.mistaken if found.mistaken in left else 0)
        left.discard(number)
        if number or found.is_judged:
            pairs.append((label[number - 1] if number else -1, found.label))
    return pairs + [(label[number - 1], -1) for number in sorted(left)]


def explain(
    total: Tensor,
    pairs: Sequence[Sequence[tuple[int, int]]],
    classes: Sequence[str],
    ends: Ranking | None,
) -> Explanation:
    """What lies behind panoptic quality.

    Args:
        total: Summed tallies [4, K].
        pairs: `confused_pairs` of every image.
        classes: Names by label.
        ends: The best and the worst images.
    """
    confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    for row in pairs:
        for true, predicted in row:
            confusion[true, predicted] += 1
    _, matched, _, missed = total
    values = dict(zip(("PQ", "SQ", "RQ"), panoptic_quality(total).tolist(), strict=True))
    names = [*classes, "background"]
    return Explanation(
        ClassTable(classes, (matched + missed).long().tolist(), "segments", values, PANOPTIC_MEASURES),
        Confusion(confusion, names, names, "segments", _RULE, has_none=True),
        ends,
    )


def draw_segments(image: Tensor, segmented: Segmented, classes: Sequence[str]) -> Tensor:
    """True segments beside predicted ones.

    Args:
        image: uint8 [3, H, W].
        segmented: Of the image.
        classes: Names by label.
    """
    step = reducing_step(image.shape[-2:], LONGEST_PANEL)
    truth, label = segmented.truth, segmented.truth.labels.tolist()
    ids, predicted = truth.ids[::step, ::step], segmented.predicted[::step, ::step]
    numbers = [number for number in range(1, len(label) + 1) if bool((ids == number).any())]
    verdicts = {
        number: "unjudged" if bool(truth.is_crowd[number - 1]) else "missed" if number in segmented.missed else "right"
        for number in numbers
    }
    annotation = _instances(
        [ids == number for number in numbers],
        [classes[label[number - 1]] for number in numbers],
        [verdicts[number] for number in numbers],
    )
    prediction = _instances(
        [predicted == found.segment for found in segmented.matches],
        [
            classes[found.label] + (f" (is {classes[label[found.mistaken - 1]]})" if found.mistaken else "")
            for found in segmented.matches
        ],
        ["right" if found.number else "false" if found.is_judged else "unjudged" for found in segmented.matches],
    )
    return draw_judged(image[:, ::step, ::step], annotation, prediction, "prediction")


def _instances(masks: Sequence[Tensor], captions: Sequence[str], verdicts: Sequence[str]) -> JudgedInstances:
    """Segments with a caption near the middle of each."""
    stacked = torch.stack(list(masks)) if masks else torch.zeros(0, 1, 1, dtype=torch.bool)
    points = torch.stack([_middle(mask) for mask in masks]) if masks else torch.zeros(0, 2)
    return JudgedInstances(
        torch.cat([points, points], dim=1), captions, verdicts, stacked if masks else None, boxed=False
    )


def _middle(mask: Tensor) -> Tensor:
    """(x, y) of a pixel of a mask [H, W] near its middle; (0, 0) of an empty one."""
    places = mask.nonzero().float()
    if not len(places):
        return torch.zeros(2)
    return places[(places - places.mean(0)).square().sum(1).argmin()].flip(0)
