"""One row of a plan: a way to train with what it takes, and the overrides that lead to it."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pe_spatial.training.planner.inputs import Size
from pe_spatial.training.planner.variation import Variation, settings_of

BATCHES = (1, 2, 4, 8, 16)
_LOOP_LENGTHS = ("max_iters", "val_interval", "val_begin")
_SCHEDULER_LENGTHS = ("begin", "end", "T_max", "milestones", "warmup", "step_size", "total_iters")
_TUNINGS = ("full", "partial", "lora", "frozen")


@dataclass(frozen=True)
class Row:
    """A way to train, and what it is predicted to take.

    Args:
        batch: Images at once, of one process.
        accumulation: Batches of a step of the optimizer.
        image_size: (H, W).
        variation: Recomputed blocks, precision and tuning.
        memory: Bytes that a run will measure: of its tensors and libraries.
        need: Bytes that the device must have free.
        seconds: Of training, for one image; None where it was not timed.
        overrides: `key=value` that lead from the config to this row.
        changes: How much the result may suffer: 0 for the config's own tuning, image size and precision.
        fits: Whether the memory has room for it.
    """

    batch: int
    accumulation: int
    image_size: Size
    variation: Variation
    memory: float
    need: float
    seconds: float | None
    overrides: tuple[str, ...]
    changes: tuple[float, ...]
    fits: bool


def by_preference(row: Row) -> tuple[Any, ...]:
    """Order for a choice: least changed first, then the fastest; among equals few overrides and large batches."""
    time = math.inf if row.seconds is None else float(f"{row.seconds:.2g}")  # the estimates are no better
    return (*row.changes, time, row.variation.checkpointing, len(row.overrides), -row.batch, row.need)


def by_time(row: Row) -> tuple[Any, ...]:
    """Order of rows in a table: the fastest first."""
    return (math.inf if row.seconds is None else row.seconds, *by_preference(row))


def changes_of(variation: Variation, own: Variation, size: Size, own_size: Size) -> tuple[float, ...]:
    """How far a way to train is from the config's: what is trained, at which size, in which precision."""
    tuning = _TUNINGS.index(variation.tuning) - _TUNINGS.index(own.tuning)
    return tuning, own_size[0] * own_size[1] / (size[0] * size[1]) - 1, variation.precision != own.precision


def own_batch(config: Any) -> tuple[int, int]:
    """(images, accumulation) of a config."""
    return int(config.train_dataloader["batch_size"]), int(config.optim_wrapper.get("accumulative_counts", 1))


def batches(config: Any) -> list[tuple[int, int]]:
    """(images, accumulation) that keep the effective batch of a config, its own among them."""
    own, accumulation = own_batch(config)
    effective = own * accumulation
    return [(size, effective // size) for size in sorted({*BATCHES, own}) if effective % size == 0]


def overrides_for(
    config: Any, variation: Variation, batch: tuple[int, int], image_size: Size | None, lengths: bool = True
) -> tuple[str, ...]:
    """`key=value` for each entry that leads from a config to a row.

    Iterations are counted before accumulation: with other batches, everything that counts them is scaled.

    Args:
        config: A loaded config.
        variation: Of the row.
        batch: Images and accumulation of the row.
        image_size: (H, W), if it is not the config's.
        lengths: Whether what counts iterations is among them.
    """
    entries: dict[str, Any] = settings_of(config, variation)
    own, _ = own_batch(config)
    if batch[0] != own:
        entries["train_dataloader.batch_size"] = batch[0]
        entries["optim_wrapper.accumulative_counts"] = batch[1]
        entries |= _scaled_lengths(config, own / batch[0]) if lengths else {}
    if image_size is not None:
        entries["_image_size"] = image_size[0] if image_size[0] == image_size[1] else list(image_size)
    return tuple(f"{key}={_text(value)}" for key, value in entries.items())


def _scaled_lengths(config: Any, factor: float) -> dict[str, Any]:
    """What counts iterations, for `factor` times as many of them."""
    schedulers = config.get("param_scheduler") or []
    several = isinstance(schedulers, list)
    places: list[tuple[str, Mapping[str, Any], Iterable[str]]] = [
        ("train_cfg", config.get("train_cfg") or {}, _LOOP_LENGTHS),
        *(
            (f"param_scheduler.{index}" if several else "param_scheduler", scheduler, _SCHEDULER_LENGTHS)
            for index, scheduler in enumerate(schedulers if several else [schedulers])
        ),
        ("default_hooks.checkpoint", (config.get("default_hooks") or {}).get("checkpoint") or {}, ("interval",)),
    ]
    return {
        f"{where}.{key}": _scale(section[key], factor)
        for where, section, keys in places
        for key in keys
        if section.get(key)
    }


def _scale(value: Any, factor: float) -> Any:
    if isinstance(value, list | tuple):
        return [_scale(item, factor) for item in value]
    return max(1, math.ceil(value * factor))


def _text(value: Any) -> str:
    """A value as YAML without spaces, which a shell would part."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return json.dumps(value, separators=(",", ":"))
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, list | tuple) else str(value)
