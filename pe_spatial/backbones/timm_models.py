"""Models of timm by name, built without weights and without the network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pe_spatial.common.errors import MissingPackage, OptionError, UnknownName, suggest

if TYPE_CHECKING:
    from types import ModuleType

TimmModel = Any  # a module; its attributes, of many kinds, are those of timm's models

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


def names_of_timm() -> list[str]:
    """Names of all models of timm; none where it is not installed."""
    try:
        return list(import_timm().list_models())
    except MissingPackage:
        return []


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
        near = suggest(architecture, known)
        near = near if "did you mean" in near else "timm.list_models() names them"
        raise UnknownName(f"timm {timm.__version__} has no model {architecture!r}; {near}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(architecture + ".*")]
    if tag and tag not in tags:
        raise UnknownName(f"timm {timm.__version__} has no weights {tag!r} of {architecture}; {suggest(tag, tags)}")


def build_model(
    name: str, img_size: int | Sequence[int] | None, drop_path: float, options: Mapping[str, Any]
) -> TimmModel:
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
        given["img_size"] = img_size if isinstance(img_size, int) else tuple(img_size)
    if drop_path:
        given["drop_path_rate"] = drop_path
    # the first of these that the model knows lets it take images of any size
    for anywhere in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **given, **anywhere)
        except TypeError as error:
            if not any(f"'{argument}'" in str(error) for argument in anywhere):
                raise OptionError(f"{name}: {error}; remove it") from error
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
            raise OptionError(f"options.{key}: {_OURS[key]}; remove it")
        if key in acting:
            raise OptionError(f"options.{key} is an argument of timm's builder, not of its model; remove it")


# --- positions --------------------------------------------------------------------------------------------------------
POSITION_MODES = ("antialiased", "bicubic")
_RESIZERS = {"resample_abs_pos_embed", "resample_abs_pos_embed_nhwc"}


def resize_positions_plainly(model: TimmModel) -> None:
    """Let a model resize its table of positions by plain bicubic interpolation, where timm adds antialiasing.

    The methods of this one model that call timm's function get one that leaves the antialiasing out. torch takes the
    cubic a = -0.75 without and -0.5 with antialiasing, so that enlarged tables differ too.

    Raises:
        OptionError: The model resizes no table: it has none, or takes one size alone.
    """
    found = False
    for name, method in inspect.getmembers(type(model), inspect.isfunction):
        if used := _RESIZERS & {*method.__code__.co_names}:
            plain = {each: partial(method.__globals__[each], antialias=False) for each in used}
            scope = {**method.__globals__, **plain}
            copy = FunctionType(method.__code__, scope, name, method.__defaults__, method.__closure__)
            setattr(model, name, MethodType(copy, model))
            found = True
    if not found or not isinstance(getattr(model, "pos_embed", None), Tensor):
        raise OptionError(
            f"pos_embed 'bicubic': {model.pretrained_cfg['architecture']} has no position table that timm can resize; "
            "remove it"
        )


# --- features ---------------------------------------------------------------------------------------------------------
def features_of(name: str, model: TimmModel) -> list[dict[str, Any]]:
    """Timm's description of the features of a model: where they are, their channels and their reduction.

    Raises:
        OptionError: timm cannot give the features as maps.
    """
    info = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not info:
        raise OptionError(f"{name}: timm returns no feature maps; use another model")
    return list(getattr(info, "info", info))


def native_size(model: TimmModel) -> tuple[int, int]:
    """(H, W) of the images that a model was made for."""
    patches = getattr(model, "patch_embed", None)
    size = getattr(patches, "img_size", None) or model.pretrained_cfg["input_size"][-2:]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def has_class_token(model: TimmModel) -> bool:
    """Whether timm gives the model's class token together with its features."""
    takes_prefix = "return_prefix_tokens" in inspect.signature(type(model).forward_intermediates).parameters
    return takes_prefix and getattr(model, "cls_token", None) is not None


def intermediates(model: TimmModel, x: Tensor, layers: Sequence[int], norm: bool, prefix: bool = False) -> list[Any]:
    """What timm returns for the features `layers`, in ascending order and without what comes after the last.

    Args:
        model: Of timm.
        x: Normalized images [B, 3, H, W].
        layers: Ascending.
        norm: Apply the final norm.
        prefix: Give (map, prefix tokens [B, P, C]) for each, the class token first, instead of the map.
    """
    taken: dict[str, Any] = {
        "indices": list(layers),
        "norm": norm,
        "stop_early": True,
        "output_fmt": "NCHW",
        "intermediates_only": True,
    }
    if prefix:
        taken["return_prefix_tokens"] = True
    found: list[Any] = model.forward_intermediates(x, **taken)
    return found


def study_maps(
    name: str, sketch: TimmModel, layers: Sequence[int], norm: bool, expected: Sequence[tuple[int, int]]
) -> set[str]:
    """Names of the parameters that features depend on; refuses features that are no maps, or others than announced.

    Args:
        name: Of the model.
        sketch: The model on the meta device, where it computes shapes alone.
        layers: Of its features, ascending.
        norm: See `intermediates`.
        expected: (channels, reduction) of each.

    Raises:
        OptionError: They are no maps.
    """
    sketch.eval()
    H, W = native_size(sketch)
    # some models hold parameters that timm itself does not train
    names, parameters = zip(*((n, p) for n, p in sketch.named_parameters() if p.requires_grad), strict=True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            maps = intermediates(sketch, torch.empty(1, 3, H, W, device="meta"), layers, norm)
            gradients = torch.autograd.grad([found.sum() for found in maps], parameters, allow_unused=True)
    except (AssertionError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise OptionError(f"{name}: timm returns no feature maps for the layers {list(layers)} ({error})") from error
    for layer, found, (channels, reduction) in zip(layers, maps, expected, strict=True):
        shape = tuple(found.shape)
        if shape != (1, channels, -(-H // reduction), -(-W // reduction)):
            raise OptionError(
                f"{name}: feature {layer} is {shape} for an image of {H} x {W}, but timm reports {channels} channels "
                f"at 1/{reduction}; only maps can be used; choose another layer or model"
            )
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
