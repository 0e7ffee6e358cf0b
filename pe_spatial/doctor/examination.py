"""Examine the datasets of a config: every sample is loaded as training would load it, and checked."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from pe_spatial.common.console import track
from pe_spatial.common.contracts import Loader
from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.pictures import read_image
from pe_spatial.common.threads import side_threads
from pe_spatial.data import LoadInstances
from pe_spatial.doctor.check import DatasetCheck, Record, Sample, checks_for
from pe_spatial.doctor.findings import Finding, Findings, Histogram
from pe_spatial.doctor.guards import attempting, overheard
from pe_spatial.doctor.sheet import draw_tile

Result = TypeVar("Result")

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
    dataset: Any = None
    findings: Findings = field(default_factory=Findings)
    histograms: list[Histogram] = field(default_factory=list)
    tiles: list[torch.Tensor] = field(default_factory=list)
    suspects: list[torch.Tensor] = field(default_factory=list)
    fingerprints: dict[bytes, str] = field(default_factory=dict)


@dataclass
class _Observation:
    """What a thread found in one sample: `seen` has what each check saw, but of those that failed."""

    sample: Sample | None = None
    findings: list[Finding] = field(default_factory=list)
    fingerprint: tuple[bytes, str] | None = None
    seen: list[tuple[DatasetCheck, Any]] = field(default_factory=list)


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

    Whatever a dataset, a loader or a check raises is a finding.

    Args:
        config: A loaded config, whose packages are imported.
        options: How much is examined.
    """
    reports: list[SplitReport] = []
    for split, entry in dataset_configs(config).items():
        loading = SplitReport(split, str(entry.get("type")))
        datasets: list[BaseDataset] = []
        with attempting(loading.findings.add, "the dataset cannot be loaded"):
            with overheard(loading.findings.add):
                built = DATASETS.build(entry)
                datasets = parts(built)
                for dataset in datasets:
                    dataset.full_init()
            reports += [examine_dataset(split, dataset, options) for dataset in datasets]
            if not datasets:
                rule = f"nothing is checked: {type(built).__name__} is not a dataset with records"
                loading.findings.add([Finding("warning", rule)])
        if datasets and not loading.findings.count("error"):
            reports[-len(datasets)].findings.join(loading.findings)
        else:
            reports.append(loading)
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
    report = SplitReport(split, type(dataset).__name__, size=len(dataset), dataset=dataset)
    findings = report.findings
    checks: list[DatasetCheck] = []
    with attempting(findings.add, "the dataset cannot be examined"):
        checks = checks_for(dataset)
    if options.thorough:
        for check in checks:
            with attempting(findings.add, f"{type(check).__name__} fails on the annotations"):
                findings.add(check.inspect_annotations())
    order = sample_order(len(dataset), options)
    tiles = min(options.tiles, len(order))
    on_sheet = {order[number * len(order) // tiles] for number in range(tiles)}
    observations = in_threads(partial(_observe, dataset, checks, options.thorough), order, options)
    # a training with unreadable="skip" is not stopped by unreadable files
    skips_unreadable = not options.thorough and getattr(dataset, "unreadable", "raise") == "skip"
    for _, (index, observation) in zip(
        track(order, split, unit="samples", shown=options.thorough), observations, strict=False
    ):
        report.seen += 1
        findings.add(f for f in observation.findings if not (skips_unreadable and f.rule == UNREADABLE))
        for check, seen in observation.seen:
            with attempting(findings.add, f"{type(check).__name__} fails"):
                findings.add(check.collect(seen))
        if observation.fingerprint is not None:
            findings.add(_duplicate(report, *observation.fingerprint))
        if index in on_sheet:
            with attempting(findings.add, "samples that cannot be shown"):
                tile = draw_tile(dataset, index, observation.sample, checks)
                report.tiles += [] if tile is None else [tile]
    for check in checks:
        with attempting(findings.add, f"{type(check).__name__} fails"):
            findings.add(check.finish())
        if check.histogram is not None:
            report.histograms.append(check.histogram)
    return report


def sample_order(size: int, options: ExaminationOptions) -> list[int]:
    """The numbers of the samples to be looked at, of `size`."""
    if options.seconds is not None:
        return np.random.default_rng(0).permutation(size).tolist()[: options.samples]
    wanted = min(size, options.samples or size)
    return [position * size // wanted for position in range(wanted)]


def _observe(dataset: BaseDataset, checks: Sequence[DatasetCheck], identify: bool, index: int) -> _Observation:
    """Load one sample and show it to the checks; `identify` hashes its pixels."""
    found = _Observation()
    add = found.findings.extend
    record: Record | None = None
    with attempting(add, "records that cannot be read"):
        record = dataset.get_data_info(index)
    if record is None:
        return found
    with attempting(add, "samples that the loaders refuse"):
        try:
            found.sample = load_sample(dataset, record)
            add(_left_out(record, found.sample))
        except UnreadableFile as error:
            add([Finding("error", UNREADABLE, str(error))])
    for check in checks:
        with attempting(add, f"{type(check).__name__} fails"):
            found.seen.append((check, check.inspect_sample(record, found.sample)))
    if identify:
        with attempting(add, "pictures that cannot be compared"):
            found.fingerprint = _fingerprint(record, found.sample)
    return found


def in_threads(
    work: Callable[[int], Result], order: Sequence[int], options: ExaminationOptions
) -> Iterator[tuple[int, Result]]:
    """Work on samples in threads, a few ahead, and yield the results in order until the time is up."""
    end = None if options.seconds is None else time.monotonic() + options.seconds
    waiting: deque[tuple[int, Future[Result]]] = deque()
    rest = iter(order)
    with side_threads(options.threads) as pool:
        while True:
            while len(waiting) < 2 * options.threads:
                index = next(rest, None)
                if index is None or (end is not None and time.monotonic() > end):
                    break
                waiting.append((index, pool.submit(work, index)))
            if not waiting:
                return
            index, future = waiting.popleft()
            yield index, future.result()


def load_sample(dataset: BaseDataset, record: Record, labels: bool = True) -> Sample:
    """The sample before any transform. Instances are loaded also where the pipeline does not need them.

    Args:
        dataset: Whose pipeline loads.
        record: Of the dataset.
        labels: False loads the picture alone.
    """
    sample = dict(record)
    for step in getattr(dataset.pipeline, "transforms", ()):
        if isinstance(step, Loader) and (labels or not step.needs_labels):
            sample = step(sample)
    if labels and "instances" in sample and "ori_shape" in sample:
        masks = all("mask" in item for item in sample["instances"])
        sample = LoadInstances(masks=masks, empty="drop")(sample)
    return sample


def _left_out(record: Record, sample: Sample) -> Iterator[Finding]:
    """Objects that the loaders left out."""
    if "boxes" in sample and "instances" in record:
        objects = sum(not item.get("ignore", False) for item in record["instances"])
        if len(sample["boxes"]) < objects:
            example = f"{record.get('img_path')}: {objects - len(sample['boxes'])} of {objects}"
            yield Finding(
                "warning",
                "objects that were left out: no area in their image, or no mask",
                example,
            )


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
