"""Region similarity J and contour accuracy F of DAVIS (Perazzi et al., 2016), as its official 2017 evaluation counts.

Letters: H, W rows and columns of pixels.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.registry import METRICS
from numpy.typing import NDArray

from pe_spatial.common.errors import OptionError
from pe_spatial.tracking.masks import mask_files, read_mask
from pe_spatial.tracking.scores import ScoreTable
from pe_spatial.training.explanation import ExplainedMetric, Measure, percent

Mask = NDArray[np.bool_]

# a contour may be off by this part of the diagonal of the frame
BOUNDARY = 0.008


def region_similarity(prediction: Mask, truth: Mask) -> float:
    """Return J, intersection over union of two masks [H, W]; 1 if both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def contour_accuracy(prediction: Mask, truth: Mask) -> float:
    """Return F, the harmonic mean of the precision and the recall of the contour of a mask [H, W].

    A contour pixel counts as found if the other contour passes within `BOUNDARY` times the diagonal, rounded up.
    Where one of the contours is empty the result is 0, where both are, 1.
    """
    radius = math.ceil(BOUNDARY * math.hypot(*truth.shape))
    window = _window(prediction | truth, radius + 1)
    predicted, true = contour(prediction)[window], contour(truth)[window]
    count_predicted, count_true = np.count_nonzero(predicted), np.count_nonzero(true)
    if not count_predicted or not count_true:
        return float(count_predicted == count_true)
    precision = np.count_nonzero(predicted & _dilate(true, radius)) / count_predicted
    recall = np.count_nonzero(true & _dilate(predicted, radius)) / count_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """Return the pixels of a mask [H, W] that differ from their neighbor to the right, below, or both.

    That is the contour, half a pixel towards the origin. In the last row only the neighbor to the right counts, in the
    last column only the one below.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask ^ right) | (mask ^ below) | (mask ^ diagonal)


class VideoScore:
    """J and F of the objects of one video, frame by frame.

    As in the official evaluation, annotated pixels of 255 are background where a video has numbered objects.

    An object is scored from the frame after the one on which it was given; the last frame of the video is left out, as
    the official semi-supervised evaluation does.

    Args:
        name: Of the video.
        entries: For each object number, the number of the frame on which it was given.
        length: Number of frames of the video.
        binary: True: everything that is predicted or annotated counts as object 1. Else see `read_mask`.
    """

    def __init__(self, name: str, entries: Mapping[int, int], length: int, binary: bool | None = False) -> None:
        self.name = name
        self.entries = dict(entries)
        self.length = length
        self.binary = binary
        self.values: dict[int, tuple[list[float], list[float]]] = {number: ([], []) for number in entries}

    def wants(self, frame: int) -> bool:
        """Whether any object is scored on a frame."""
        return frame < self.length - 1 and any(frame > entry for entry in self.entries.values())

    def add(self, frame: int, prediction: NDArray[np.integer], annotation: str | Path | None) -> None:
        """Score a frame, if it is annotated and an object is scored on it.

        Args:
            frame: Its number.
            prediction: Object numbers [H, W].
            annotation: File of its true mask, or None.

        Raises:
            UnreadableFile: The annotation cannot be read.
            OptionError: Another size than the annotation, or an object that the video does not have.
        """
        if annotation is None or not self.wants(frame):
            return
        truth = read_mask(annotation, binary=self.binary).numpy()
        if prediction.shape != truth.shape:
            raise OptionError(
                f"{self.name}, frame {frame}: the result is {prediction.shape} (H, W) but {annotation} is "
                f"{truth.shape}; write results at the size of the annotation"
            )
        if self.binary:
            prediction = (prediction > 0).astype(np.uint8)
        unknown = set(np.unique(prediction).tolist()) - {0} - set(self.entries)
        if unknown:
            raise OptionError(
                f"{self.name}, frame {frame}: the result has an object {max(unknown)}, but the video has "
                f"{sorted(self.entries)}; use the object numbers of the first annotation"
            )
        for number, entry in self.entries.items():
            if frame > entry:
                predicted, true = prediction == number, truth == number
                self.values[number][0].append(region_similarity(predicted, true))
                self.values[number][1].append(contour_accuracy(predicted, true))

    def results(self) -> list[dict[str, Any]]:
        """One plain dict per object: video, object, and the values of J and F by frame."""
        return [{"video": self.name, "object": n, "J": j, "F": f} for n, (j, f) in self.values.items()]


_PARTS = {"J": "region overlap (IoU)", "F": "contour accuracy (F-measure)"}
_STATISTICS = {
    "mean": "mean over the frames and the objects",
    "recall": "share of the frames above one half",
    "decay": "loss from the first to the last quarter of a video",
}
MEASURES: dict[str, Measure] = {
    "J&F": percent("J&F", "mean of J, the region overlap, and F, the contour accuracy"),
    **{
        f"{part}-{statistic}": replace(
            percent(f"{part} {statistic}", f"{meaning}: {how}"), higher_is_better=statistic != "decay"
        )
        for part, meaning in _PARTS.items()
        for statistic, how in _STATISTICS.items()
    },
}


@METRICS.register_module()
class JFMetric(ExplainedMetric):
    """J&F of a tracker on a dataset of `pe_spatial.tracking.datasets`: the official global numbers."""

    default_prefix = "track"
    headline = ("J&F",)
    measures = MEASURES

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Score videos: `pred_track_ids` [T, H, W] against the files `annotation_paths`.

        Raises:
            UnreadableFile, OptionError: See `VideoScore.add`.
        """
        for sample in data_samples:
            score = open_score(sample)
            for frame, (ids, path) in enumerate(zip(sample["pred_track_ids"], sample["annotation_paths"], strict=True)):
                score.add(frame, ids.numpy(), path)
            self.results += score.results()

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Global numbers of all objects."""
        return ScoreTable(results).totals


def open_score(record: Mapping[str, Any]) -> VideoScore:
    """Start to score a video of a dataset; its objects are those of its prompts."""
    entries: dict[int, int] = {}
    for frame, prompt in record["prompts"].items():
        for number in read_mask(**prompt).unique().tolist():
            if number:
                entries.setdefault(int(number), int(frame))
    return VideoScore(record["video"], entries, len(record["frame_paths"]), record["binary"])


def score_folder(record: Mapping[str, Any], folder: Path, skipped: Collection[str] = ()) -> VideoScore:
    """Score the result PNGs of any tracker for a video of a dataset, `folder`/00000.png and so on.

    Args:
        record: See `pe_spatial.tracking.datasets`.
        folder: Of the results.
        skipped: Names of frames that the tracker left out, and that are not scored.

    Raises:
        UnreadableFile: a result or an annotation is missing or damaged.
        OptionError: See `VideoScore.add`.
    """
    score = open_score(record)
    results = mask_files(folder)
    for number, (frame, path) in enumerate(zip(record["frame_paths"], record["annotation_paths"], strict=True)):
        if path is not None and score.wants(number) and Path(frame).stem not in skipped:
            stem = Path(frame).stem
            result = read_mask(results.get(stem, folder / f"{stem}.png"), binary=record["binary"])
            score.add(number, result.numpy(), path)
    return score


@lru_cache(maxsize=32)
def _disc(radius: int) -> NDArray[np.uint8]:
    axis = np.arange(-radius, radius + 1) ** 2
    return (axis[:, None] + axis <= radius**2).astype(np.uint8)


def _dilate(mask: Mask, radius: int) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), _disc(radius)).astype(bool)


def _window(mask: Mask, margin: int) -> tuple[slice, slice]:
    """The part of a frame that holds a mask, with a margin; the rest need not be processed."""
    slices = []
    for axis in (1, 0):
        occupied = np.flatnonzero(mask.any(axis=axis))
        low, high = (occupied[0], occupied[-1] + 1) if len(occupied) else (0, 1)
        slices.append(slice(max(int(low) - margin, 0), int(high) + margin))
    return slices[0], slices[1]
