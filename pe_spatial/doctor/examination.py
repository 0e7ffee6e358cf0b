"""Examine the data sets of a config: every sample is loaded as training would load it, and looked at."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import UserError
from pe_spatial.data import LoadInstances, UnreadableFile, read_image
from pe_spatial.doctor.check import DatasetCheck, Record, Sample, checks_for
from pe_spatial.doctor.findings import Finding, Findings, Histogram
from pe_spatial.doctor.sheet import Tile, draw_tile

SPLITS = ("train", "val", "test")
UNREADABLE = "files that cannot be read"


@dataclass(frozen=True)
class Effort:
    """How much to look at.

    Args:
        samples: At most so many of a data set, spread over it; None for all.
        seconds: Stop then, having drawn samples at random; None for no limit.
        threads: That load samples.
        tiles: Samples of a data set to draw.
        thorough: Look at whole annotation files too, and compare images.
    """

    samples: int | None = None
    seconds: float | None = None
    threads: int = 1
    tiles: int = 0
    thorough: bool = True


@dataclass
class SplitReport:
    """What was found in one data set."""

    split: str
    name: str
    size: int = 0
    seen: int = 0
    findings: Findings = field(default_factory=Findings)
    histograms: list[Histogram] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    fingerprints: dict[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Look:
    """One sample, as a thread has seen it."""

    sample: Sample | None
    findings: list[Finding]
    fingerprint: tuple[bytes, str] | None
    seen: list[Any]


# --- several data sets ------------------------------------------------------------------------------------------------
def dataset_configs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The data set of each split; `test` only where it is another than that of `val`.

    Raises:
        UserError: The config has none.
    """
    found = {split: (config.get(f"{split}_dataloader") or {}).get("dataset") for split in SPLITS}
    if found["test"] == found["val"]:
        found["test"] = None
    present = {split: dataset for split, dataset in found.items() if dataset is not None}
    if not present:
        raise UserError("the config has no data set: no train_dataloader, val_dataloader or test_dataloader")
    return present


def examine(
    config: Mapping[str, Any], effort: Effort, track: Callable[[str, int, Iterator[int]], Iterator[int]]
) -> list[SplitReport]:
    """Examine every data set of a config.

    Args:
        config: A loaded config, whose packages are imported.
        effort: How much to look at.
        track: Given a description, a total and the samples' numbers: the same numbers, with a progress bar.
    """
    reports: list[SplitReport] = []
    for split, entry in dataset_configs(config).items():
        try:
            datasets = parts(DATASETS.build(entry))
            for dataset in datasets:
                dataset.full_init()
        except (UserError, OSError, ValueError) as error:
            broken = SplitReport(split, str(entry.get("type")))
            broken.findings.add([Finding("error", "the data set cannot be loaded", str(error))])
            reports.append(broken)
            continue
        reports += [examine_dataset(split, dataset, effort, track) for dataset in datasets]
    if effort.thorough:
        compare_splits(reports)
    return reports


def parts(dataset: Any) -> list[BaseDataset]:
    """The data sets that mmengine's wrappers hold; foreign ones, which have no records, are left out."""
    if hasattr(dataset, "datasets"):
        return [part for inner in dataset.datasets for part in parts(inner)]
    if hasattr(dataset, "dataset"):
        return parts(dataset.dataset)
    return [dataset] if isinstance(dataset, BaseDataset) else []


def compare_splits(reports: Sequence[SplitReport]) -> None:
    """Find images of equal pixels in the training data and in those that judge it."""
    training: dict[bytes, str] = {}
    for report in reports:
        if report.split == "train":
            training |= report.fingerprints
    for report in reports:
        if report.split != "train":
            shared = report.fingerprints.keys() & training.keys()
            rule = f"images of {report.split} that are also in train"
            pairs = sorted((report.fingerprints[key], training[key]) for key in shared)
            report.findings.add(Finding("error", rule, f"{own} = {other}") for own, other in pairs)


# --- one data set -----------------------------------------------------------------------------------------------------
def examine_dataset(
    split: str, dataset: Any, effort: Effort, track: Callable[[str, int, Iterator[int]], Iterator[int]]
) -> SplitReport:
    """Examine a data set; arguments as in `examine`."""
    report = SplitReport(split, type(dataset).__name__, size=len(dataset))
    checks = checks_for(dataset)
    if effort.thorough:
        for check in checks:
            report.findings.add(check.inspect())
    order = _order(len(dataset), effort)
    tiles = min(effort.tiles, len(order))
    drawn = {order[number * len(order) // tiles] for number in range(tiles)}
    looks = _look_at_all(_Observer(dataset, checks, effort.thorough), order, effort)
    # a training that skips what cannot be read is not to be stopped by it
    forgiven = not effort.thorough and getattr(dataset, "unreadable", "raise") == "skip"
    for _, (index, look) in zip(track(split, len(order), iter(order)), looks, strict=False):
        report.seen += 1
        report.findings.add(f for f in look.findings if not (forgiven and f.rule == UNREADABLE))
        for check, seen in zip(checks, look.seen, strict=True):
            report.findings.add(check.collect(seen))
        if look.fingerprint is not None:
            report.findings.add(_duplicate(report, *look.fingerprint))
        if index in drawn:
            tile = draw_tile(dataset, index, look.sample, checks)
            report.tiles += [] if tile is None else [tile]
    for check in checks:
        report.findings.add(check.finish())
        histogram = check.histogram()
        if histogram is not None:
            report.histograms.append(histogram)
    return report


def _order(size: int, effort: Effort) -> list[int]:
    if effort.seconds is not None:
        order = np.random.default_rng(0).permutation(size).tolist()
        return order if effort.samples is None else order[: effort.samples]
    wanted = size if effort.samples is None else min(effort.samples, size)
    return [position * size // wanted for position in range(wanted)]


@dataclass(frozen=True)
class _Observer:
    """Looks at single samples of a data set; changes nothing, so that threads can share it."""

    dataset: BaseDataset
    checks: Sequence[DatasetCheck]
    identify: bool  # by a hash of the pixels

    @cached_property
    def loaders(self) -> list[Callable[[Sample], Sample]]:
        """The first steps of the pipeline, which decode files."""
        steps = getattr(self.dataset.pipeline, "transforms", ())
        return [step for step in steps if isinstance(step, Loader)]

    def look(self, index: int) -> _Look:
        """Load one sample and show it to the checks."""
        record = self.dataset.get_data_info(index)
        findings: list[Finding] = []
        sample: Sample | None = None
        try:
            sample = _load(record, self.loaders)
        except UnreadableFile as error:
            findings.append(Finding("error", UNREADABLE, str(error)))
        except (UserError, OSError, ValueError) as error:
            findings.append(Finding("error", "samples that the loaders refuse", str(error)))
        seen = [check.look(record, sample) for check in self.checks]
        return _Look(sample, findings, _fingerprint(record, sample) if self.identify else None, seen)


def _look_at_all(observer: _Observer, order: Sequence[int], effort: Effort) -> Iterator[tuple[int, _Look]]:
    """Look at samples in threads, a few ahead; in their order, until the time is up."""
    end = None if effort.seconds is None else time.monotonic() + effort.seconds
    waiting: deque[tuple[int, Future[_Look]]] = deque()
    rest = iter(order)
    with ThreadPoolExecutor(effort.threads) as pool:
        while True:
            while len(waiting) < 2 * effort.threads:
                index = next(rest, None)
                if index is None or (end is not None and time.monotonic() > end):
                    break
                waiting.append((index, pool.submit(observer.look, index)))
            if not waiting:
                return
            index, future = waiting.popleft()
            yield index, future.result()


def _load(record: Record, loaders: Sequence[Callable[[Sample], Sample]]) -> Sample:
    """The sample before any transform. Instances are loaded also where the pipeline does not need them."""
    sample = dict(record)
    for load in loaders:
        sample = load(sample)
    if "instances" in sample and "ori_shape" in sample:
        masks = all("mask" in item for item in sample["instances"])
        sample = LoadInstances(masks=masks, empty="drop")(sample)
    return sample


def _fingerprint(record: Record, sample: Sample | None) -> tuple[bytes, str] | None:
    """A hash of the pixels, which survives a change of the file's name, format (without loss) and metadata."""
    if sample is not None and isinstance(sample.get("img"), torch.Tensor):
        image, name = sample["img"], str(record.get("img_path"))
    elif record.get("frame_paths"):
        name = record["frame_paths"][0]
        try:
            image = read_image(name)
        except UnreadableFile:
            return None
    else:
        return None
    digest = hashlib.blake2b(str(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy())
    return digest.digest(), name


def _duplicate(report: SplitReport, fingerprint: bytes, name: str) -> Iterator[Finding]:
    first = report.fingerprints.setdefault(fingerprint, name)
    if first != name:
        yield Finding("warning", f"images that are in {report.split} twice", f"{name} = {first}")
