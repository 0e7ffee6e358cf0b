"""What the dataset doctor asks of label maps."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.pictures import read_indices
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.doctor import DatasetCheck, Finding, Histogram, absent_classes
from pe_spatial.segmentation.datasets import SegmentationDataset
from pe_spatial.segmentation.labels import LabelFormat
from pe_spatial.segmentation.panoptic import CocoPanoptic, InstanceLabels

# fewer label maps are no evidence
_ENOUGH = 5


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
        yield from absent_classes(self.histogram, self._loaded == len(self.dataset))


class LabelValueCheck(DatasetCheck):
    """The values that label files hold, against those that the class list expects: wrong numberings, 0/255 masks."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._format: LabelFormat = dataset.label_format
        self._pixels: Counter[int] = Counter()  # by value, as the two that follow
        self._files: Counter[int] = Counter()
        self._examples: dict[int, str] = {}
        self._sets: Counter[bool] = Counter()  # whether a file holds nothing but 0 and 255

    @classmethod
    def concerns(cls, dataset: Any, record: dict[str, Any]) -> bool:
        """Datasets of label files."""
        return isinstance(dataset, SegmentationDataset)

    def inspect_sample(self, record: dict[str, Any], sample: dict[str, Any] | None) -> Any:
        """The values of the file with their pixels; also of a file that the loader has refused."""
        try:
            values = read_indices(record["seg_map_path"], colors=True)
        except UnreadableFile:
            return None
        if values.ndim != 2:
            return None
        present, counts = np.unique(values, return_counts=True)
        return record["seg_map_path"], present.tolist(), counts.tolist()

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count."""
        if seen is not None:
            name, present, counts = seen
            self._sets[{IGNORE_LABEL} <= set(present) <= {0, IGNORE_LABEL}] += 1
            for value, count in zip(present, counts, strict=True):
                self._pixels[value] += count
                self._files[value] += 1
                self._examples.setdefault(value, name)
        return ()

    def finish(self) -> Iterable[Finding]:
        """Values outside the class list, and the marks of a wrong numbering."""
        for value, pixels in sorted(self._pixels.items()):
            if value not in self._format.meaning:
                example = f"{value}: {pixels} pixels in {self._files[value]} files, for example {self._examples[value]}"
                yield Finding("error", "label values outside the class list", example)
        files = self._sets.total()
        if files and self._sets[True] == files and (files >= min(_ENOUGH, len(self.dataset))):
            yield Finding(
                "error",
                "binary masks of 0 and 255",
                f"all {files} label maps hold only 0 and 255, and 255 means no label: save objects with the value 1",
            )
        elif files >= min(_ENOUGH, len(self.dataset)):
            yield from self._numbering(files == len(self.dataset))

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
