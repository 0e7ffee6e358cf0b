"""What a training is predicted to cost before it begins: images, hours, memory, disk; and whether the disk has room."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

from pe_spatial.common.errors import FullDiskError
from pe_spatial.common.memory import gigabytes
from pe_spatial.training.config import drop_pretrained
from pe_spatial.training.planner.rows import Row
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
    if row.seconds is None:
        time = "time not known, because the device is not here"
    else:
        time = f"{duration(row.seconds * images)} (h:mm:ss) at {row.seconds:.3g} s each, without validation"
    disk = disk_bytes(config)
    _require_space(Path(config.work_dir), disk)
    return f"cost: {images:,} images, {time}; memory {gigabytes(row.memory)}; disk {gigabytes(disk)} of checkpoints"


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
