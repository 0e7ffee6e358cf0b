"""What a task contributes to the examination of its datasets.

A task writes subclasses of `DatasetCheck` in its own package; the package is imported by the `custom_imports` of its
configs, so that the examination finds them without knowing any task.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pe_spatial.common.errors import few
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
        """Labels of the objects that count."""
        labels = [item["label"] for item in record["instances"] if not item.get("ignore", False)]
        return record.get("img_path", ""), [labels.count(thing) for thing in self._things]

    def collect(self, seen: Any) -> Iterable[Finding]:
        """Count."""
        path, counts = seen
        self.histogram.add(counts)
        self._seen += 1
        if not any(counts):
            self._empty.append(path)
        return ()

    def finish(self) -> Iterable[Finding]:
        """Classes and images without objects."""
        if self._empty:
            level: Level = "error" if len(self._empty) == len(self.dataset) else "note"
            rule = f"{len(self._empty)} of {self._seen} images have no object"
            yield Finding(level, rule, f"for example {self._empty[0]}")
        yield from absent_classes(self.histogram, self._seen == len(self.dataset))
