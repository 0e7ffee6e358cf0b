"""What a training is predicted to cost before it begins: images, hours, memory, disk; and whether the disk has room."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import Tensor

from pe_spatial.common.errors import FullDiskError
from pe_spatial.common.memory import gigabytes
from pe_spatial.own.teachers import sketched
from pe_spatial.training.config import drop_pretrained
from pe_spatial.training.planner.inputs import training_size
from pe_spatial.training.planner.rows import Row
from pe_spatial.training.planner.timing import StepTime, time_training
from pe_spatial.training.planner.variation import side_unit
from pe_spatial.training.progress import duration

_MOMENTS = 2  # of AdamW and LAMB, for each trained number


def cost_line(config: Config, row: Row) -> str:
    """A sentence about what a training takes.

    Args:
        config: Complete.
        row: What its plan has found.

    Raises:
        FullDiskError: The disk has no room for its checkpoints.
    """
    images = config.train_cfg.max_iters * config.train_dataloader.batch_size
    cached = ""
    if row.seconds is None:
        time = "time not known, because the device is not here"
    else:
        timed = time_training(config)
        waits = ", in which steps wait for the workers that load: give more (--workers)" if timed.waits else ""
        time = f"{duration(timed.image * images)} (h:mm:ss) at {timed.image:.3g} s each, without validation{waits}"
        cached = _cache_line(config, timed, images)
    disk = disk_bytes(config)
    _require_space(Path(config.work_dir), disk)
    told = f"cost: {images:,} images, {time}; memory {gigabytes(row.need)}; disk {gigabytes(disk)} of checkpoints"
    return told + cached


def map_bytes(channels: int, grid: int) -> int:
    """Bytes of a square map of features in a cache: codes of 8 bits, a scale a channel, a length a token."""
    return channels * grid**2 + 4 * channels + 4 * grid**2


def _cache_line(config: Config, timed: StepTime, images: int) -> str:
    """What a cache of the features of teachers would save and take; empty where no encoder teaches.

    Features are computed anew in every step all the same: a cache has the maps of whole photographs in their own
    colors, and the student sees crops of them in others.
    """
    teachers = [sketched(each) for each in (config.model.get("teachers") or {}).values()]
    channels = [each.channels for each in teachers if each is not None]
    if not channels or not timed.teachers:
        return ""
    views = config.model.get("views") or {}
    grid = training_size(config)[0] // side_unit(config.model) // views.get("reduction", 1)
    photographs = len(DATASETS.build(config.train_dataloader.dataset))
    needed = photographs * sum(map_bytes(each, grid) for each in channels)
    saved = timed.teachers * (images - photographs)
    if saved <= 0:
        return "; a cache of the teachers' features would save nothing in one pass over the photographs"
    return (
        f"; the teachers take {timed.teachers / timed.step:.0%} of a step: a cache of their features would save "
        f"{duration(saved)} for {gigabytes(needed)}, but not know the augmentation, and is not used"
    )


def disk_bytes(config: Config) -> int:
    """Bytes of the files of a run: its last states, one more while it is written, the best weights and the last."""
    settings = config.model.to_dict()
    drop_pretrained(settings)
    drop_pretrained(list((settings.get("teachers") or {}).values()))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = MODELS.build(settings)
    weights = _bytes(iter(model.state_dict().values()))
    if (config.get("default_hooks") or {}).get("ema"):
        weights *= 2
    trained = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    hook = config.default_hooks.checkpoint
    states = hook.get("keep", 2) + 1
    return states * (weights + _MOMENTS * trained) + weights * (2 if hook.get("best") else 1)


def _bytes(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _require_space(folder: Path, needed: int) -> None:
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise FullDiskError(
            f"{folder}: the checkpoints of the run need {gigabytes(needed)} and {gigabytes(free)} are free; free some "
            "space, or give a folder on another disk (--output)"
        )
