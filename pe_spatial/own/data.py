"""What the data of a user is, which tasks it fits, and the dataset sections of a config that read it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, ConfigError, OptionError, few, suggest
from pe_spatial.data.formats import Reading, choose, recognize
from pe_spatial.own.request import Request

HELD_OUT = 0.2  # of the pictures of a dataset without a validation part
# format of what has no boxes -> the tasks that it fits
_TASKS_OF = {"masks": ("segmentation",), "panoptic": ("panoptic",), "depth": ("depth",)}

Section = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A dataset that fits a task.

    Attributes:
        train: Dataset section of the training part, over that of a recipe.
        val: Dataset section of the validation part.
        lines: What was recognized and chosen, for the user.
    """

    train: Section
    val: Section
    lines: tuple[str, ...]


def tasks_of(reading: Reading) -> tuple[str, ...]:
    """The tasks that can be trained on data of this kind; the first is the usual one."""
    return ("detection", "instances") if reading.load is not None else _TASKS_OF.get(reading.format, ())


def usual_task(path: Path, format_name: str | None = None) -> str:
    """The task that data is usually for.

    Raises:
        AnnotationError: It is none that is known, none that a task trains on, or can be read in several ways.
        FileNotFoundError, OptionError: As of `choose`.
    """
    reading = choose(path, format_name)
    tasks = tasks_of(reading)
    if not tasks:
        hint = "; pe-spatial track reads it" if reading.format == "video" else ""
        raise AnnotationError(f"{path} contains {reading.about}, which only the task alignment can use{hint}")
    return tasks[0]


def find_data(request: Request) -> Data:
    """The data of a request.

    Raises:
        AnnotationError: It is none that is known, fits other tasks, or can be read in several ways.
        ConfigError: Label maps that no file describes.
        OptionError: The parts cannot be told apart.
        FileNotFoundError: It does not exist.
    """
    path = Path(request.data).expanduser().absolute()
    reading = _fitting(path, request.task, request.format)
    if reading.format == "masks" and reading.advice:
        raise ConfigError(f"{reading.path}: {reading.about}, but their meaning is not known: {reading.advice}")
    train, val, lines = roles(reading, request.split)
    if reading.advice:
        lines.append(f"{reading.advice}; millimeters are taken, another unit: _depth_scale=…")
    sections = [_section(reading, path, part) for part in (train, val or train)]
    if val is None:
        sections, line = held_out(sections[0], train, HELD_OUT, request.seed)
        lines.append(line)
    return Data(sections[0], sections[1], tuple(lines))


def held_out(section: Section, name: str, share: float, seed: int) -> tuple[list[Section], str]:
    """A section as that of the training and of the validation part, and what to tell of it.

    Args:
        section: Of data without a validation part.
        name: What the data is called.
        share: Of the pictures that is held out.
        seed: Of the choice.
    """
    parts = [{**section, "holdout": {"part": part, "share": share, "seed": seed}} for part in ("train", "val")]
    return parts, (
        f"no validation part: {100 * share:.3g}% of {name} are held out (at least one; seed {seed}; files that are "
        "equal byte for byte stay on one side)"
    )


def _fitting(path: Path, task: str, format_name: str | None) -> Reading:
    readings = recognize(path, format_name)
    fitting = [reading for reading in readings if task in tasks_of(reading)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting or not readings:
        return choose(path, format_name)  # which says what is there, or lists the ways
    kinds = few((reading.about for reading in readings), 5)
    tasks = dict.fromkeys([*(task for reading in readings for task in tasks_of(reading)), "alignment"])
    raise AnnotationError(f"{path} contains {kinds}, which cannot be used for {task}; use it for {', '.join(tasks)}")


def roles(reading: Reading, wanted: str | None) -> tuple[str, str | None, list[str]]:
    """Names of the training and the validation part, None where there is none; and what to tell of the data.

    Args:
        reading: Of the data.
        wanted: The names as the user gives them; None goes by what the parts are called.

    Raises:
        OptionError: No such parts, or they cannot be told apart.
    """
    train, val = _roles(reading, wanted)
    lines = [f"data: {reading.path}: {reading.about}"]
    unused = [part for part in reading.splits if part not in (train, val)]
    if unused:
        lines.append(f"not used: {', '.join(unused)}; `split` chooses others")
    return train, val, lines


def _roles(reading: Reading, wanted: str | None) -> tuple[str, str | None]:
    if wanted is not None:
        names = wanted.split(",")
        for name in names:
            if name not in reading.splits:
                raise OptionError(f"{reading.path} has no split {name!r}; {suggest(name, reading.splits)}")
        if len(names) > 2 or len(set(names)) < len(names):
            raise OptionError(f"split {wanted!r}: give the name of the training part, or TRAIN,VAL")
        return names[0], names[1] if len(names) > 1 else None
    train, val = (_called(start, reading.splits) for start in ("train", "val"))
    if not train and len(reading.splits) == 1:
        return reading.splits[0], None
    if len(train) != 1 or len(val) > 1:
        raise OptionError(
            f"{reading.path} has the splits {', '.join(reading.splits)}; choose two for training and validation: "
            "split TRAIN,VAL"
        )
    return train[0], val[0] if val else None


def _called(start: str, splits: Sequence[str]) -> list[str]:
    """Splits whose last word begins so, such as `train2017`, or `valid` for val."""
    return [name for name in splits if re.fullmatch(rf"(.*[\W_])?{start}[a-z]*\d*", name, re.IGNORECASE)]


def _section(reading: Reading, path: Path, split: str) -> Section:
    """The dataset section of a split; `_delete_` drops what the recipe says of its own data."""
    if reading.load is None:
        return {"data_root": "", **reading.datasets[split]}
    return {**coco_section(reading, path, split), "data_prefix": {"_delete_": True}}


def coco_section(reading: Reading, path: Path, split: str) -> Section:
    """What reads a split of a format with objects."""
    return {
        "type": "CocoInstances",
        "data_root": "",
        "ann_file": str(path),
        "split": split,
        "format": reading.format,
    }
