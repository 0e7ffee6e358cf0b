"""What a request says of a student and its teachers."""

from typing import Any

from pe_spatial.backbones import get_variant
from pe_spatial.common.errors import OptionError
from pe_spatial.own.encoders import Encoder, find_encoder
from pe_spatial.own.models import TINY_ENCODER, Model, require_patches
from pe_spatial.own.request import Request
from pe_spatial.own.teachers import several_settings, teaches_alone
from pe_spatial.own.trials import trial_settings


def student_settings(request: Request, model: Model, in_half: bool) -> dict[str, Any]:
    """Sections of the teachers, and of the size and the patches of the student.

    Args:
        request: Of an alignment.
        model: The student.
        in_half: Whether Perception Encoders that teach are kept in bfloat16, which is half of its memory.

    Raises:
        OptionError: Nothing to learn from; an image size that the patches do not divide; or as of `several_settings`
            and `trial_settings`.
        FileNotFoundError, WeightsError, CheckpointError: As of `find_encoder`.
    """
    dtype = "bfloat16" if in_half else "float32"
    settings: dict[str, Any] = {"model": _teachers(request, model, dtype)}
    shape = get_variant(model.encoder or TINY_ENCODER)
    patch = shape.patch_size
    if request.image_size is not None:
        require_patches(request.image_size, patch)
    if request.image_size is None:
        settings["_image_size"] = shape.image_size
    if request.trial is not None:
        settings["default_hooks"] = trial_settings(request.trial, request.image_size or shape.image_size)
    return {**settings, "_patch_size": patch}


def _teachers(request: Request, model: Model, dtype: str) -> dict[str, Any]:
    """Sections of the model that say whom the student learns from."""
    teachers = request.teachers
    if teachers and not teaches_alone(teachers):
        return several_settings(teachers, dtype)
    teacher = find_encoder(teachers[0]) if teachers else _beginning(request, model)
    variant: Any = teacher.variant
    if isinstance(variant, dict):
        variant = {"_delete_": True, **variant}
    return {"teachers": {"teacher": {"variant": variant, "weights": teacher.weights, "dtype": dtype}}}


def _beginning(request: Request, model: Model) -> Encoder:
    """What the student begins with."""
    start = model.weights if request.weights is None else request.weights
    if start is None or start == "none":
        raise OptionError(
            "the student starts from random weights and has no teacher; give a teacher (--teacher), or weights to "
            "start from (--weights)"
        )
    return find_encoder(start)
