"""What a task contributes to the examination of its datasets.

A task writes subclasses of `DatasetCheck` in its own package; the package is imported by the `custom_imports` of its
configs, so that the examination finds them without knowing any task.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torchvision.ops import box_iou

from pe_spatial.common.errors import few
from pe_spatial.data import Polygons, to_bitmaps
from pe_spatial.data.transforms import boxes_of_masks
from pe_spatial.doctor.findings import Finding, Histogram, Level

Record = dict[str, Any]
Sample = dict[str, Any]


class DatasetCheck:
    """One examination of one dataset; a subclass says which datasets it concerns and writes the others as needed.

    The order of calls: `inspect_annotations` once, unless the examination is quick. Then `inspect_sample` for every
    sample, in threads and in any order, and `collect` in the order of the samples. At the end `finish`.

    Args:
        dataset: With `get_data_info`, `metainfo` and `pipeline`.

    Attributes:
        histogram: How often each class occurs, when all samples have been seen; None shows none.
    """

    histogram: Histogram | None = None

    def __init_subclass__(cls) -> None:
        _CHECKS.append(cls)

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    @classmethod
    def concerns(cls, dataset: Any, record: Record) -> bool:
        """Whether to examine this dataset, of which `record` is the first record."""
        raise NotImplementedError

    def inspect_annotations(self) -> Iterable[Finding]:
        """What can be said without any sample, such as about the annotation file."""
        return ()

    def inspect_sample(self, record: Record, sample: Sample | None) -> Any:
        """What matters of one sample. Changes nothing, for it runs in threads.

        Args:
            record: As the dataset has it.
            sample: After the pipeline's loaders; None where they refused it.
        """
        return None

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Take in what `inspect_sample` returned."""
        return ()

    def finish(self) -> Iterable[Finding]:
        """What can be said when all samples have been seen."""
        return ()

    def draw(self, record: Record) -> Tensor | None:
        """A picture of a record that the loaders do not decode (a video), uint8 [3, H, W]."""
        return None


_ROUNDING = 2  # pixels by which a box and the box around its mask may differ
_FITTING = 0.5  # their least IoU

_CHECKS: list[type[DatasetCheck]] = []


def checks_for(dataset: Any) -> list[DatasetCheck]:
    """The checks that concern a dataset."""
    record = dataset.get_data_info(0)
    return [check(dataset) for check in _CHECKS if check.concerns(dataset, record)]


def absent_classes(histogram: Histogram, complete: bool) -> Iterable[Finding]:
    """A finding about the classes that no sample has; none where only a part was looked at."""
    absent = histogram.absent
    if complete and absent:
        yield Finding("warning", f"{len(absent)} of {len(histogram.names)} classes never occur", few(absent, 12))


class InstanceCheck(DatasetCheck):
    """Objects of any dataset whose records have `instances`: how many of each class, and images without any."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        classes = dataset.metainfo["classes"]
        is_thing = dataset.metainfo.get("is_thing", [True] * len(classes))
        self._things = [label for label, countable in enumerate(is_thing) if countable]
        self.histogram: Histogram = Histogram("objects", [classes[label] for label in self._things])
        self._empty: list[str] = []
        self._seen = 0

    @classmethod
    def concerns(cls, dataset: Any, record: Record) -> bool:
        """Records with instances."""
        return "instances" in record and bool(dataset.metainfo.get("classes"))

    def inspect_sample(self, record: Record, sample: Sample | None) -> Any:
        """Labels of the objects that count, and what contradicts itself."""
        path = record.get("img_path", "")
        labels = [item["label"] for item in record["instances"] if not item.get("ignore", False)]
        findings = [] if sample is None or "boxes" not in sample else list(_contradictions(path, sample))
        return path, [labels.count(thing) for thing in self._things], findings

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count."""
        path, counts, findings = seen
        self.histogram.add(counts)
        self._seen += 1
        if not any(counts):
            self._empty.append(path)
        return findings

    def finish(self) -> Iterable[Finding]:
        """Classes and images without objects."""
        if self._empty:
            level: Level = "error" if len(self._empty) == len(self.dataset) else "note"
            rule = f"{len(self._empty)} of {self._seen} images have no object"
            yield Finding(level, rule, f"for example {self._empty[0]}")
        yield from absent_classes(self.histogram, self._seen == len(self.dataset))


def _contradictions(path: str, sample: Sample) -> Iterable[Finding]:
    """Objects of a loaded sample that are there twice, and masks that are empty or lie elsewhere than their boxes."""
    boxes, labels = sample["boxes"].as_subclass(Tensor), sample["labels"].tolist()
    objects = Counter(zip(labels, map(tuple, boxes.tolist()), strict=True))
    for (label, corners), count in objects.items():
        if count > 1:
            example = f"{path}: label {label}, {[round(value, 1) for value in corners]} (xyxy), {count} times"
            yield Finding("warning", "objects that are annotated more than once", example)
    masks = sample.get("masks")
    if masks is None:
        return
    masks = to_bitmaps(masks) if isinstance(masks, Polygons) else masks.as_subclass(Tensor)
    filled = masks.flatten(1).any(1)
    around = boxes_of_masks(masks)
    away = (around - boxes).abs().max(1).values > _ROUNDING
    away &= box_iou(around, boxes).diagonal() < _FITTING
    for row, (has_pixels, is_away) in enumerate(zip(filled.tolist(), away.tolist(), strict=True)):
        box = [round(value, 1) for value in boxes[row].tolist()]
        if not has_pixels:
            yield Finding("warning", "masks without a pixel", f"{path}: the object at {box} (xyxy)")
        elif is_away:
            example = f"{path}: box {box} (xyxy), the mask reaches over {around[row].tolist()}"
            yield Finding("warning", "masks that do not fit their box", example)
