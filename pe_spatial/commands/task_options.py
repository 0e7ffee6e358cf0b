"""The options of `pe-spatial predict` that belong to some tasks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import number_in, positive
from pe_spatial.common.errors import UserError

if TYPE_CHECKING:
    from pe_spatial.inference.tasks import Task

DEFAULT_THRESHOLD = 0.5
_SWITCH: dict[str, Any] = {"action": "store_true"}
# options of some tasks: which, what they take and what they do
TASK_OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "threshold": (
        "detection and segmentation",
        {"type": float},
        f"lowest score of an object (default {DEFAULT_THRESHOLD})",
    ),
    "slices": (
        "detection",
        {"type": positive, "metavar": "SIDE"},
        "see every picture in square windows of so many pixels, at its own size or at that of --image-size",
    ),
    "slice_overlap": (
        "detection",
        {"type": number_in(0, 0.9), "metavar": "SHARE"},
        "share of a window that neighbors have in common; default: 0.2",
    ),
    "tiles": (
        "depth",
        {"type": positive, "metavar": "SIDE"},
        "see every picture in overlapping square tiles of so many pixels, at its own size or at that of --image-size; "
        "default: whole, at the size that the config says",
    ),
    "npy": ("depth", _SWITCH, "write depth as .npy files too"),
    "depth_colors": (
        "depth",
        {"type": number_in(0, 1e9), "nargs": 2, "metavar": ("NEAR", "FAR")},
        "ends of the color scale; default: each image's own, and for a video the range of the model",
    ),
    "window": (
        "segmentation",
        {"type": positive, "nargs": 2, "metavar": ("SIDE", "STRIDE")},
        "slide a square window over the model's input, in pixels; default: the model's own",
    ),
    "confidence": ("segmentation", _SWITCH, "also write the probability of the class of each pixel"),
    "probabilities": ("segmentation", _SWITCH, "also write those of all classes (.npy, large)"),
}


def add_task_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Add an option of `TASK_OPTIONS`."""
    tasks, kind, text = TASK_OPTIONS[name]
    parser.add_argument(f"--{name.replace('_', '-')}", help=f"{tasks}: {text}", **kind)


def refuse_options_of_others(options: argparse.Namespace, tasks: Mapping[Path, Task]) -> None:
    """Refuse the options that are for none of the models.

    Args:
        options: Of the command.
        tasks: Of the checkpoints.

    Raises:
        UserError: Names the option and what the checkpoints hold.
    """
    for name, (belongs_to, _, _) in TASK_OPTIONS.items():
        if getattr(options, name) in (None, False) or any(takes(task, name) for task in tasks.values()):
            continue
        held = " and ".join(f"{path} holds a model of {task.name}" for path, task in tasks.items())
        raise UserError(f"--{name.replace('_', '-')} is for {belongs_to}, but {held}; remove it")


def options_of_task(
    options: argparse.Namespace, task: Task, output: Path, overrides: Sequence[str]
) -> argparse.Namespace:
    """The options of the command as the model of a task takes them: without those of other tasks, with its defaults.

    Args:
        options: Of the command.
        task: Of the model.
        output: The folder of its results.
        overrides: Of its config.
    """
    own = argparse.Namespace(**{**vars(options), "output": output, "overrides": list(overrides)})
    for name in TASK_OPTIONS:
        if not takes(task, name):
            setattr(own, name, None)
    if own.threshold is None and "threshold" in task.settings:
        own.threshold = DEFAULT_THRESHOLD
    return own


def takes(task: Task, name: str) -> bool:
    """Whether an option is one of a task."""
    return name in (*task.settings, *task.options)
