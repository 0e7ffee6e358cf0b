"""Models of timm by name, built without weights and without the network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from pe_spatial.common.errors import MissingPackage, OptionError, UnknownName, suggest

if TYPE_CHECKING:
    from types import ModuleType

# arguments of timm's models that options of ours decide
_OURS = {
    "num_classes": "nothing but maps is taken",
    "in_chans": "images have three channels",
    "img_size": "the option img_size decides",
    "dynamic_img_size": "the option img_size decides",
    "drop_path_rate": "the option drop_path decides",
}


def import_timm() -> ModuleType:
    """The package.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"encoders of timm need {error.name}, which is not installed; pip install 'pe_spatial[timm]'"
        ) from error
    return timm


def require_known(name: str) -> None:
    """Refuse a name that is none of timm's.

    Args:
        name: Of a model, with or without the tag of its weights: `vit_small_patch14_dinov2.lvd142m`.

    Raises:
        UnknownName: timm has no such model, or the model no such tag; names the nearest.
    """
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        near = suggest(architecture, known) if architecture else "give a name"
        raise UnknownName(f"timm {timm.__version__} has no model {architecture!r}; {near}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        raise UnknownName(f"timm {timm.__version__} has no weights {tag!r} of {architecture}; {suggest(tag, tags)}")


def build_model(
    name: str, img_size: int | tuple[int, int] | None, drop_path: float, options: Mapping[str, Any]
) -> nn.Module:
    """Build a model of timm with random weights; it takes other sizes than its own wherever timm lets it.

    Args:
        name: See `require_known`.
        img_size: Size (H, W) of the model's table of positions; None is timm's.
        drop_path: Skipping probability of the last block.
        options: More arguments of timm's model.

    Raises:
        UnknownName: See `require_known`.
        OptionError: The model does not take one of the arguments, or not the value.
    """
    timm = import_timm()
    require_known(name)
    _require_free(options)
    given = dict(options)
    if img_size is not None:
        given["img_size"] = img_size
    if drop_path:
        given["drop_path_rate"] = drop_path
    # the first of these that the model knows lets it take images of any size
    for anywhere in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **given, **anywhere)
        except TypeError as error:
            if not any(f"'{argument}'" in str(error) for argument in anywhere):
                raise OptionError(f"{name}: {error}; leave it out") from error
        except (AssertionError, RuntimeError, ValueError) as error:
            raise OptionError(f"{name} cannot be built with {given}: {error}") from error
    raise AssertionError("the last attempt has no argument that could be refused")


def _require_free(options: Mapping[str, Any]) -> None:
    """Refuse options that are decided elsewhere, or that could fetch or read files."""
    from timm.models import build_model_with_cfg, create_model

    acting = {*inspect.signature(create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
    acting |= {"features_only", "out_indices", "feature_cls", "pruned"}
    for key in options:
        if key in _OURS:
            raise OptionError(f"options.{key}: {_OURS[key]}; leave it out")
        if key in acting:
            raise OptionError(f"options.{key} is an argument of timm's builder, not of its model; leave it out")
