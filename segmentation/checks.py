"""What the dataset doctor asks of label maps."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.pictures import read_indices
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.doctor import DatasetCheck, Finding, Histogram, absent_classes
from pe_spatial.segmentation.datasets import SegmentationDataset
from pe_spatial.segmentation.labels import LabelFormat
from pe_spatial.segmentation.panoptic import CocoPanoptic, InstanceLabels

# fewer label maps are no evidence
_ENOUGH = 5
_SMOOTHED = 0.25  # share of the edges of a label map whose middle lies between its sides
_KINDS = 6  # different values there


def smooth_share(values: NDArray[np.int64]) -> float:
    """The share of pixels of a label map [H, W] that smooth resizing made, 0 where edges look sharp.

    Where a smoothed edge rises or falls, a pixel lies strictly between its neighbors, with ever other values. A thin
    border between two classes has a few values only.
    """
    between, edges, kinds = 0, 0, set()
    made = np.zeros(values.shape, bool)
    for grid, row in ((values, made), (values.T, made.T)):
        before, here, after = grid[:, :-2], grid[:, 1:-1], grid[:, 2:]
        inside = (before < here) & (here < after) | (before > here) & (here > after)
        row[:, 1:-1] |= inside
        between += int(inside.sum())
        edges += int((before != after).sum())
        kinds |= set(np.unique(here[inside]).tolist())
    return float(made.mean()) if between > _SMOOTHED * edges and len(kinds) >= _KINDS else 0.0


class LabelMapCheck(DatasetCheck):
    """Pixels of each class, and label maps without any label."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.histogram: Histogram = Histogram("pixels", list(dataset.metainfo["classes"]))
        self._loaded = self._unlabeled_pixels = self._pixels = 0

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """All datasets of this package."""
        return isinstance(dataset, SegmentationDataset | CocoPanoptic | InstanceLabels)

    def inspect_sample(self, record: dict[str, Any], sample: dict[str, Any] | None) -> Any:
        """Pixels of each of 256 labels."""
        if sample is None or "sem_seg" not in sample:
            return None
        name = record.get("seg_map_path", record["img_path"])
        return name, torch.bincount(sample["sem_seg"].flatten(), minlength=IGNORE_LABEL + 1).tolist()

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count."""
        if seen is None:
            return
        name, counts = seen
        self._loaded += 1
        self._pixels += sum(counts)
        self._unlabeled_pixels += counts[IGNORE_LABEL]
        self.histogram.add(counts[: len(self.histogram.names)])
        if counts[IGNORE_LABEL] == sum(counts):
            yield Finding("warning", "label maps without a labeled pixel", name)

    def finish(self) -> Iterable[Finding]:
        """The share of pixels without a label, and the classes that never occur."""
        if self._unlabeled_pixels:
            yield Finding("note", f"{self._unlabeled_pixels / self._pixels:.1%} of the pixels have no label")
        complete = self._loaded == len(self.dataset)
        present = [name for name, pixels in zip(self.histogram.names, self.histogram.counts, strict=True) if pixels]
        if complete and len(present) == 1 and isinstance(self.dataset, SegmentationDataset):
            example = (
                f"every labeled pixel is {present[0]!r}, and {self._unlabeled_pixels / self._pixels:.1%} have no label"
            )
            yield Finding("error", "nothing to learn: one class in all label maps", example)
        yield from absent_classes(self.histogram, complete)


class LabelValueCheck(DatasetCheck):
    """The values that label files hold, against those that the class list expects: wrong numberings, 0/255 masks."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._format: LabelFormat = dataset.label_format
        self._pixels: Counter[int] = Counter()  # by value, as the two that follow
        self._files: Counter[int] = Counter()
        self._examples: dict[int, str] = {}
        self._seen = self._binary = self._with_255 = 0  # files; of 0 and 255 alone; of these, with 255

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """Datasets of label files."""
        return isinstance(dataset, SegmentationDataset)

    def inspect_sample(self, record: dict[str, Any], sample: dict[str, Any] | None) -> Any:
        """The values of the file with their pixels; also of a file that the loader has refused."""
        try:
            values = self._format.stored(record["seg_map_path"])
            if values.ndim == 3 and self._format.meaning.get(0) == IGNORE_LABEL:  # its colors may contradict that
                values = read_indices(record["seg_map_path"], colors=True)
        except UnreadableFile:
            return None
        if values.ndim != 2:
            return None
        present, counts = np.unique(values, return_counts=True)
        return record["seg_map_path"], present.tolist(), counts.tolist(), smooth_share(values)

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count, and find edges that were smoothed."""
        if seen is None:
            return
        name, present, counts, smooth = seen
        self._seen += 1
        self._binary += set(present) <= {0, IGNORE_LABEL}
        self._with_255 += IGNORE_LABEL in present and set(present) <= {0, IGNORE_LABEL}
        for value, count in zip(present, counts, strict=True):
            self._pixels[value] += count
            self._files[value] += 1
            self._examples.setdefault(value, name)
        if smooth > 0:
            example = f"{name}: {smooth:.1%} of the pixels lie between the values of their neighbors"
            yield Finding("error", "label maps whose edges were smoothed (resize them with nearest neighbor)", example)

    def finish(self) -> Iterable[Finding]:
        """Values outside the class list, and the marks of a wrong numbering."""
        for value, pixels in sorted(self._pixels.items()):
            if value not in self._format.meaning:
                example = f"{value}: {pixels} pixels in {self._files[value]} files, for example {self._examples[value]}"
                yield Finding("error", "label values outside the class list", example)
        complete = self._seen == len(self.dataset)
        # a picture without an object holds no 255; among a few files, 255 may be borders of "no label"
        enough = self._with_255 >= 1 if complete else self._with_255 >= _ENOUGH
        if self._binary == self._seen and enough:
            yield Finding(
                "error",
                "binary masks of 0 and 255",
                f"all {self._seen} label maps hold only 0 and 255 ({self._with_255} of them 255), and 255 means no "
                "label: save objects with the value 1",
            )
        elif self._seen >= min(_ENOUGH, len(self.dataset)):
            yield from self._numbering(complete)

    def _numbering(self, complete: bool) -> Iterator[Finding]:
        """Whether the files count from 0 or from 1, judged by the ends of the range of values."""
        count, present = len(self._format.classes), self._pixels.keys()
        counted = self._format.meaning.get(0)
        if count < 2:
            return
        if counted == 0 and count in present and 0 not in present and count not in self._format.meaning:
            yield Finding(
                "error",
                "zero_is_ignored is probably missing",
                f"the files hold 1…{count} and never 0, so they count the classes from 1: set zero_is_ignored",
            )
        if self._format.meaning != LabelFormat.counting(self._format.classes, zero_is_ignored=True).meaning:
            return
        # every class seen but the last, and 0 in use: the last class would have the value that never occurs
        if complete and count not in present and {0, *range(1, count)} <= present:
            yield Finding(
                "error",
                "zero_is_ignored is probably wrong",
                f"the files hold 0…{count - 1} and never {count}, so they count the classes from 0, and the "
                f"{self._pixels[0]} pixels of {self._format.classes[0]!r} would be dropped: unset zero_is_ignored",
            )
