"""What a request says of a student and its teacher."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.registry import MODELS

from pe_spatial.backbones import get_variant
from pe_spatial.common.errors import OptionError
from pe_spatial.own.encoders import Encoder, find_encoder
from pe_spatial.own.models import TINY_ENCODER, Model
from pe_spatial.own.request import Request


def student_settings(request: Request, model: Model, in_half: bool) -> dict[str, Any]:
    """Sections of the teacher, and of the size and the patches of the student.

    Args:
        request: Of an alignment.
        model: The student.
        in_half: Whether the teacher is kept in bfloat16, which is half of its memory.

    Raises:
        OptionError: Nothing to learn from; an image size that the patches do not divide; or as of `find_encoder`.
        FileNotFoundError, WeightsError, CheckpointError: As of `find_encoder`.
    """
    teacher = _teacher(request, model)
    variant: Any = teacher.variant
    if isinstance(variant, dict):
        variant = {"_delete_": True, **variant}
    dtype = "bfloat16" if in_half else "float32"
    settings: dict[str, Any] = {
        "model": {"teachers": {"teacher": {"variant": variant, "weights": teacher.weights, "dtype": dtype}}}
    }
    shape = get_variant(model.encoder or TINY_ENCODER)
    patch = shape.patch_size
    if request.image_size is not None and request.image_size % patch:
        raise OptionError(f"image_size {request.image_size} is not a multiple of the patch size {patch}")
    if request.image_size is None:
        settings["_image_size"] = shape.image_size
    return {**settings, "_patch_size": patch}


def _teacher(request: Request, model: Model) -> Encoder:
    if request.teacher is not None:
        return find_encoder(request.teacher)
    start = model.weights if request.weights is None else request.weights
    if start is None or start == "none":
        raise OptionError(
            "the student begins from scratch and has nothing to learn from but itself; name a teacher (--teacher), or "
            "weights to begin with (--weights)"
        )
    return find_encoder(start)


def teacher_lines(model: Mapping[str, Any]) -> list[str]:
    """What to tell of the teachers of a model; nothing of a model without."""
    return [_line(settings) for settings in (model.get("teachers") or {}).values()]


def _line(settings: Mapping[str, Any]) -> str:
    if "variant" not in settings:
        return f"teacher: {settings['type']}"
    with torch.device("meta"):
        teacher = MODELS.build({**settings, "weights": None})
    count = sum(parameter.numel() for parameter in teacher.parameters())
    block, shape, source = teacher.backbone.layers[0] + 1, teacher.backbone.config, settings["weights"]
    origin = "" if source == shape.name else f" ({source})"
    return (
        f"teacher: block {block} of {shape.depth} of {shape.name}{origin}, {count:,} frozen parameters beside those of "
        "the model"
    )
