"""What a request says of its teachers: one Perception Encoder, as always, or several encoders of any kind."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS

from pe_spatial.backbones.named import TIMM, named_encoder
from pe_spatial.backbones.timm_models import names_of_timm
from pe_spatial.common.errors import OptionError
from pe_spatial.own.encoders import find_encoder


def teaches_alone(teachers: Sequence[str]) -> bool:
    """Whether there is one teacher, and it is a Perception Encoder: the recipe of the authors is for these."""
    return len(teachers) == 1 and not is_foreign(teachers[0])


def is_foreign(teacher: str) -> bool:
    """Whether a teacher is written as timm's name of an encoder, with or without `=FILE`."""
    name = teacher.partition("=")[0]
    if Path(teacher).expanduser().exists():
        return False
    return name.startswith(TIMM) or name.partition(".")[0] in names_of_timm()


def several_settings(teachers: Sequence[str], dtype: str) -> dict[str, Any]:
    """The sections `teachers` and `distill` of a model that learns from these.

    Args:
        teachers: Each a released encoder by name, a file, the folder of a run, or timm's name of an encoder with its
            file, `NAME=FILE`.
        dtype: Of Perception Encoders; others compute in float32.

    Raises:
        OptionError: The same teacher twice, or an encoder of timm without a file.
        UnknownName, MissingPackage, FileNotFoundError, WeightsError, CheckpointError: As of `find_encoder` and
            `named_encoder`.
    """
    if len(set(teachers)) < len(teachers):
        raise OptionError(
            f"teachers {', '.join(teachers)}: one is given twice; to give it more weight, set "
            "model.distill.NAME={weight: 2}"
        )
    sections: dict[str, Any] = {}
    for teacher in teachers:
        name = _unique(teacher, sections)
        if is_foreign(teacher):
            sections[name] = {"type": "ModuleTeacher", "backbone": _foreign(teacher)}
            continue
        found = find_encoder(teacher)
        backbone = {"type": "PEBackbone", "variant": found.variant, "weights": found.weights}
        sections[name] = {"type": "ModuleTeacher", "backbone": backbone, "dtype": dtype}
    # in the place of those of the recipe
    distilled: dict[str, Any] = {name: {} for name in sections}
    return {"teachers": {"_delete_": True, **sections}, "distill": {"_delete_": True, **distilled}}


def teacher_lines(model: Mapping[str, Any]) -> list[str]:
    """What to tell of the teachers of a model; nothing of a model without."""
    teachers = model.get("teachers") or {}
    return [_line("teacher" if len(teachers) == 1 else f"teacher {name}", each) for name, each in teachers.items()]


def _foreign(teacher: str) -> dict[str, Any]:
    name, _, file = teacher.partition("=")
    if not file:
        raise OptionError(f"teacher {teacher}: weights of timm are not downloaded; give the file, {teacher}=FILE")
    path = Path(file).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(f"teacher {teacher}: there is no file {file}")
    return {**named_encoder(name, str(path)), "norm": True}


def _unique(teacher: str, taken: Mapping[str, Any]) -> str:
    """A name for the losses of a teacher: letters, digits and underscores of its own name."""
    source = teacher.partition("=")[0].removeprefix(TIMM)
    path = Path(source).expanduser()
    stem = path.name if path.is_dir() or not path.suffix or not path.exists() else path.stem
    name = re.sub(r"\W+", "_", stem).strip("_").lower() or "teacher"
    number = 2
    while name in taken:
        name, number = f"{name.rstrip('0123456789')}{number}", number + 1
    return name


def sketched(settings: Mapping[str, Any]) -> Any | None:
    """A teacher without weights that takes no memory; None of a teacher that is no encoder."""
    if "variant" not in settings and "backbone" not in settings:
        return None
    empty = {**settings, "weights": None} if "variant" in settings else dict(settings)
    if "backbone" in settings:
        empty["backbone"] = {**settings["backbone"], "weights": None}
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return MODELS.build(empty)


def _line(label: str, settings: Mapping[str, Any]) -> str:
    teacher = sketched(settings)
    if teacher is None:
        return f"{label}: {settings['type']}"
    count = sum(parameter.numel() for parameter in teacher.parameters())
    backbone = teacher.backbone
    source = settings.get("backbone", settings).get("weights")
    shape = backbone.config.name if hasattr(backbone, "config") else backbone.model
    origin = "" if source == shape else f" ({source})"
    return (
        f"{label}: block {backbone.layers[0] + 1} of {backbone.depth} of {shape}{origin}, {count:,} frozen parameters "
        "beside those of the model"
    )
