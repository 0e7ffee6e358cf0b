"""Examine the datasets of a config: every sample is loaded as training would load it, and checked."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pe_spatial.common.console import track
from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.pictures import read_image
from pe_spatial.data import LoadInstances
from pe_spatial.doctor.check import DatasetCheck, Record, Sample, checks_for
from pe_spatial.doctor.findings import Finding, Findings, Histogram
from pe_spatial.doctor.sheet import draw_tile

SPLITS = ("train", "val", "test")
UNREADABLE = "files that cannot be read"


@dataclass(frozen=True)
class ExaminationOptions:
    """How much is examined.

    Args:
        samples: Greatest number of samples per dataset, evenly spaced; None examines all.
        seconds: Time limit per dataset; the samples are then chosen at random. None sets no limit.
        threads: Number of threads that load samples.
        tiles: Number of samples per dataset to draw on its sheet.
        thorough: Also read whole annotation files, compare the images of the datasets, and show the progress.
    """

    samples: int | None = None
    seconds: float | None = None
    threads: int = 1
    tiles: int = 0
    thorough: bool = True


@dataclass
class SplitReport:
    """What was found in one dataset."""

    split: str
    name: str
    size: int = 0
    seen: int = 0
    findings: Findings = field(default_factory=Findings)
    histograms: list[Histogram] = field(default_factory=list)
    tiles: list[torch.Tensor] = field(default_factory=list)
    fingerprints: dict[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Observation:
    """What a thread found in one sample."""

    sample: Sample | None
    findings: list[Finding]
    fingerprint: tuple[bytes, str] | None
    seen: list[Any]


# --- several datasets ------------------------------------------------------------------------------------------------
def dataset_configs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset of each split; `test` only where it is another than that of `val`.

    Raises:
        UserError: The config has none.
    """
    found = {split: (config.get(f"{split}_dataloader") or {}).get("dataset") for split in SPLITS}
    if found["test"] == found["val"]:
        found["test"] = None
    present = {split: dataset for split, dataset in found.items() if dataset is not None}
    if not present:
        raise UserError("the config has no dataset: no train_dataloader, val_dataloader or test_dataloader")
    return present


def examine(config: Mapping[str, Any], options: ExaminationOptions) -> list[SplitReport]:
    """Examine every dataset of a config.

    Args:
        config: A loaded config, whose packages are imported.
        options: How much is examined.
    """
    reports: list[SplitReport] = []
    for split, entry in dataset_configs(config).items():
        try:
            datasets = parts(DATASETS.build(entry))
            for dataset in datasets:
                dataset.full_init()
        except (UserError, OSError, ValueError) as error:
            broken = SplitReport(split, str(entry.get("type")))
            broken.findings.add([Finding("error", "the dataset cannot be loaded", str(error))])
            reports.append(broken)
            continue
        reports += [examine_dataset(split, dataset, options) for dataset in datasets]
    if options.thorough:
        compare_splits(reports)
    return reports


def parts(dataset: Any) -> list[BaseDataset]:
    """The datasets that mmengine's wrappers hold; foreign ones, which have no records, are left out."""
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


# --- one dataset -----------------------------------------------------------------------------------------------------
def examine_dataset(split: str, dataset: Any, options: ExaminationOptions) -> SplitReport:
    """Examine a dataset; arguments as in `examine`."""
    report = SplitReport(split, type(dataset).__name__, size=len(dataset))
    checks = checks_for(dataset)
    if options.thorough:
        for check in checks:
            report.findings.add(check.inspect_annotations())
    order = _order(len(dataset), options)
    tiles = min(options.tiles, len(order))
    on_sheet = {order[number * len(order) // tiles] for number in range(tiles)}
    observations = _observe_all(partial(_observe, dataset, checks, options.thorough), order, options)
    # a training with unreadable="skip" is not stopped by unreadable files
    skips_unreadable = not options.thorough and getattr(dataset, "unreadable", "raise") == "skip"
    for _, (index, observation) in zip(
        track(order, split, unit="samples", shown=options.thorough), observations, strict=False
    ):
        report.seen += 1
        report.findings.add(f for f in observation.findings if not (skips_unreadable and f.rule == UNREADABLE))
        for check, seen in zip(checks, observation.seen, strict=True):
            report.findings.add(check.collect(seen))
        if observation.fingerprint is not None:
            report.findings.add(_duplicate(report, *observation.fingerprint))
        if index in on_sheet:
            tile = draw_tile(dataset, index, observation.sample, checks)
            report.tiles += [] if tile is None else [tile]
    for check in checks:
        report.findings.add(check.finish())
        if check.histogram is not None:
            report.histograms.append(check.histogram)
    return report


def _order(size: int, options: ExaminationOptions) -> list[int]:
    if options.seconds is not None:
        return np.random.default_rng(0).permutation(size).tolist()[: options.samples]
    wanted = min(size, options.samples or size)
    return [position * size // wanted for position in range(wanted)]


def _observe(dataset: BaseDataset, checks: Sequence[DatasetCheck], identify: bool, index: int) -> _Observation:
    """Load one sample and show it to the checks; `identify` hashes its pixels."""
    record = dataset.get_data_info(index)
    findings: list[Finding] = []
    sample: Sample | None = None
    try:
        sample = _load(dataset, record)
    except UnreadableFile as error:
        findings.append(Finding("error", UNREADABLE, str(error)))
    except (UserError, OSError, ValueError) as error:
        findings.append(Finding("error", "samples that the loaders refuse", str(error)))
    seen = [check.inspect_sample(record, sample) for check in checks]
    return _Observation(sample, findings, _fingerprint(record, sample) if identify else None, seen)


def _observe_all(
    observe: Callable[[int], _Observation], order: Sequence[int], options: ExaminationOptions
) -> Iterator[tuple[int, _Observation]]:
    """Observe samples in threads, a few ahead, and yield them in order until the time is up."""
    end = None if options.seconds is None else time.monotonic() + options.seconds
    waiting: deque[tuple[int, Future[_Observation]]] = deque()
    rest = iter(order)
    with ThreadPoolExecutor(options.threads) as pool:
        while True:
            while len(waiting) < 2 * options.threads:
                index = next(rest, None)
                if index is None or (end is not None and time.monotonic() > end):
                    break
                waiting.append((index, pool.submit(observe, index)))
            if not waiting:
                return
            index, future = waiting.popleft()
            yield index, future.result()


def _load(dataset: BaseDataset, record: Record) -> Sample:
    """The sample before any transform. Instances are loaded also where the pipeline does not need them."""
    sample = dict(record)
    for step in getattr(dataset.pipeline, "transforms", ()):
        if isinstance(step, Loader):
            sample = step(sample)
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
