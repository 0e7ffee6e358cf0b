"""Everything of a run that depends on its length: iterations, schedule, validation, checkpoints, averaging.

Iterations are batches, counted before gradient accumulation, as everywhere in this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from pe_spatial.own.request import EPOCHS, Request

_MOST_VALIDATIONS = 20  # of a run: one an epoch, or fewer
_AVERAGED = 20  # the averaged weights look back over a twentieth of the run
# what schedulers of mmengine and of ours count in iterations
_COUNTED = ("begin", "end", "milestones", "warmup", "T_max", "step_size", "total_iters")


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        iterations: Batches.
        per_epoch: Batches that see every picture once, rounded up.
        epochs: Passes over the pictures.
        interval: Iterations between validations, and between checkpoints.
    """

    iterations: int
    per_epoch: int
    epochs: float
    interval: int


def find_length(request: Request, images: int, batch: int, processes: int) -> Length:
    """The length of a run over so many pictures with this batch in each process."""
    at_once = batch * processes
    epochs = EPOCHS if request.epochs is None else request.epochs
    iterations = request.iterations or ceil(epochs * images / at_once)
    per_epoch = ceil(images / at_once)
    interval = min(max(per_epoch, ceil(iterations / _MOST_VALIDATIONS)), iterations)
    return Length(iterations, per_epoch, iterations * at_once / images, interval)


def length_settings(length: Length, written_for: int, schedulers: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Sections of the config that make a recipe as long as this.

    Args:
        length: Of the run.
        written_for: Iterations that the recipe is written for.
        schedulers: Of the recipe.
    """
    settings: dict[str, Any] = {
        "train_cfg": {"max_iters": length.iterations, "val_interval": length.interval},
        "default_hooks": {
            "checkpoint": {"interval": length.interval},
            "logger": {"interval": max(1, min(20, length.iterations // 20))},
        },
    }
    if schedulers:
        settings["param_scheduler"] = stretch(schedulers, length.iterations / written_for)
    return settings


def stretch(schedulers: Sequence[dict[str, Any]], factor: float) -> list[dict[str, Any]]:
    """Schedulers of a run that is longer by a factor.

    One that keeps fewer than two iterations is dropped. A warm-up of a single one never reaches its end: the rate would
    stay at its beginning for the whole run.
    """
    stretched = [
        {key: _scaled(value, factor) if key in _COUNTED else value for key, value in scheduler.items()}
        for scheduler in schedulers
    ]
    return [each for each in stretched if each.get("end") is None or each["end"] > each.get("begin", 0) + 1]


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, list):
        return [_scaled(item, factor) for item in value]
    return value if value is None else int(value * factor)


def momentum(iterations: int) -> float:
    """Weight of the newest weights in the average."""
    return min(0.1, _AVERAGED / iterations)


def scaled_rate(rate: float, batch: int, reference: int) -> float:
    """The learning rate of a batch from that of another: the square-root rule of Adam (arXiv:2205.10287)."""
    return float(f"{rate * sqrt(batch / reference):.3g}")
