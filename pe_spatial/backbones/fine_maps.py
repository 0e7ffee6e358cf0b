"""The option `upsampling` of a backbone, and the files of learned upsamplers.

A file holds the tensors of a `LearnedUpsampler` and what they belong to, in `trained_on.*`: the hash of the encoder's
weights, the blocks whose maps were upsampled, and the reach of the neighborhood.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from pe_spatial.backbones.lora import is_adapter
from pe_spatial.backbones.upsampling import Interpolation, JointBilateral, LearnedUpsampler
from pe_spatial.common.contracts import Backbone
from pe_spatial.common.errors import OptionError, few, require_choice
from pe_spatial.common.integrity import content_hash
from pe_spatial.common.parts import build_options, link
from pe_spatial.common.tensors import (
    Misfit,
    WeightsError,
    read_tensor_file,
    require_finite,
    shapes_of,
    write_tensor_file,
)

Upsampling = str | Mapping[str, Any]


_KINDS: dict[Any, Callable[..., Interpolation]] = {
    "bilinear": Interpolation,
    "joint_bilateral": JointBilateral,
    "learned": LearnedUpsampler,
}
_RECIPE = "pe-spatial train --config upsampling/pe_spatial_b16.yaml"
_ENCODER, _LAYERS, _REACH = (f"trained_on.{name}" for name in ("encoder", "layers", "reach"))


def add_upsampler(backbone: Any, settings: Upsampling) -> None:  # noqa: ANN401 - any backbone of ours
    """Give a backbone its attribute `upsampler`, and the strides that follow; it is frozen where the encoder is.

    Args:
        backbone: Of the contract, with `encoder`, which holds its weights, `layers` and `std`, and everything else in
            place. Its `forward` passes the pictures and the maps through `upsampler` unless that is None.
        settings: See `build_upsampler`, and what it raises.
    """
    upsampler = backbone.upsampler = build_upsampler(settings, backbone)
    if upsampler is None:
        return
    backbone.strides = (upsampler.stride,) * len(backbone.strides)
    if not any(parameter.requires_grad for parameter in backbone.encoder.parameters()):
        upsampler.requires_grad_(False)


def build_upsampler(settings: Upsampling, backbone: Any) -> Interpolation | None:  # noqa: ANN401 - any backbone of ours
    """What a backbone passes its maps through.

    Args:
        settings: `bilinear`: the maps stay as they are, and heads enlarge what they make of them bilinearly. Or a
            mapping with `type` and `stride`, and what the type takes:

            * `{type: bilinear, stride: 4}`: see `Interpolation`
            * `{type: joint_bilateral, stride: 4}`: see `JointBilateral` (`reach`, `sigma`, `tile`)
            * `{type: learned, stride: 4, weights: FILE}`: see `LearnedUpsampler` (`width` too). `weights: null` begins
              as joint bilateral and is trained with the head, unless the backbone is frozen.
        backbone: With its weights, and with the channels and strides that it has without upsampling.

    Raises:
        OptionError: An unknown type, a stride that does not fit the patches, maps of several strides or widths, or
            `learned` without `weights`.
        ConfigError: An unknown option, or one outside its range.
        WeightsError: The weights are those of another encoder, of other layers or of another form.
    """
    if not isinstance(settings, str | Mapping):
        raise OptionError(f"upsampling {settings!r} is neither bilinear nor a mapping with type and stride")
    options = {"type": settings} if isinstance(settings, str) else dict(settings)
    kind = options.pop("type", None)
    require_choice("upsampling.type", kind, _KINDS)
    if "stride" not in options:
        if kind == "bilinear" and not options:
            return None
        raise OptionError(f"upsampling.type {kind} needs a stride, the pixels of a fine cell; set upsampling.stride: 4")
    if set(backbone.strides) != {backbone.patch_size}:
        raise OptionError(
            f"upsampling needs maps of one grid, with patches of {backbone.patch_size} pixels, and the encoder has "
            f"maps of strides {few(backbone.strides)}; choose maps of that stride, or remove upsampling"
        )
    options = link("upsampling", options, patch_size=backbone.patch_size)
    if kind != "bilinear":
        options = link("upsampling", options, deviation=tuple(backbone.std))
    if kind != "learned":
        return build_options(_KINDS[kind], options, "upsampling")
    if len(set(backbone.channels)) > 1:
        raise OptionError(f"upsampling.type learned needs maps of one width, not {few(backbone.channels)}; choose one")
    if "weights" not in options:
        raise OptionError(
            f"upsampling.type learned needs weights, which are trained once per encoder ({_RECIPE}); give their "
            "file, or null to train it with the head"
        )
    source = options.pop("weights")
    upsampler = build_options(
        LearnedUpsampler, link("upsampling", options, channels=backbone.channels[0]), "upsampling"
    )
    if source is not None:
        load_upsampler(upsampler, Path(source), backbone)
    return upsampler


def known_options(kind: object) -> set[str]:
    """The keys that the settings of a type may have.

    Raises:
        OptionError: There is no such type.
    """
    require_choice("upsampling.type", kind, _KINDS)
    taken = inspect.signature(_KINDS[kind]).parameters.keys() - {"patch_size", "deviation", "channels"}
    return {*taken, "type"} | ({"weights"} if kind == "learned" else set())


def require_patches(backbone: Backbone, user: str) -> None:
    """Refuse a backbone with upsampling where the tokens themselves are used.

    Raises:
        OptionError: Its maps have another stride than its patches.
    """
    if set(backbone.strides) != {backbone.patch_size}:
        raise OptionError(
            f"{user} works on the tokens of the encoder, of {backbone.patch_size} pixels, and its backbone gives maps "
            f"of stride {few(backbone.strides)}; leave upsampling out"
        )


def save_upsampler(upsampler: LearnedUpsampler, path: Path, backbone: Any) -> None:  # noqa: ANN401 - any backbone of ours
    """Write the file of a learned upsampler.

    Args:
        upsampler: What was trained.
        path: Ends in `.safetensors`, `.pt` or `.pth`.
        backbone: That its maps came from.
    """
    origin = {
        _ENCODER: torch.frombuffer(bytearray.fromhex(_hash(backbone)), dtype=torch.uint8),
        _LAYERS: torch.tensor(list(backbone.layers)),
        _REACH: torch.tensor(upsampler.reach),
    }
    write_tensor_file({**upsampler.state_dict(), **origin}, path)


def _hash(backbone: Any) -> str:  # noqa: ANN401 - any backbone of ours
    """Of the weights of an encoder, without adapters."""
    return content_hash({key: value for key, value in backbone.encoder.state_dict().items() if not is_adapter(key)})


def load_upsampler(upsampler: LearnedUpsampler, path: Path, backbone: Any) -> None:  # noqa: ANN401 - any backbone of ours
    """Load the file of a learned upsampler.

    Args:
        upsampler: Where to.
        path: The file.
        backbone: That it is going to work with.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: See `build_upsampler`.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no upsampler at {str(path)!r}; give the file that its training wrote ({_RECIPE})")
    tensors = dict(read_tensor_file(path))
    origin = {name: tensors.pop(name, None) for name in (_ENCODER, _LAYERS, _REACH)}
    if not all(isinstance(value, Tensor) for value in origin.values()):
        raise WeightsError(
            f"{path} is not an upsampler: it does not say which encoder it was trained for; {_RECIPE} makes one"
        )
    trained, given = bytes(origin[_ENCODER].tolist()).hex(), _hash(backbone)
    if trained != given:
        raise WeightsError(
            f"{path} was trained on the encoder with the hash {trained[:12]}, and this one has {given[:12]}; use the "
            f"weights of that encoder, or train an upsampler for this one: {_RECIPE}"
        )
    known = origin[_LAYERS].tolist()
    if not set(backbone.layers) <= set(known):
        raise WeightsError(
            f"{path} was trained on maps of layers {known}, not of {list(backbone.layers)}; use those layers, or "
            f"train an upsampler"
        )
    if int(origin[_REACH]) != upsampler.reach:
        raise WeightsError(f"{path} was trained with upsampling.reach {int(origin[_REACH])}; set that")
    if misfit := str(Misfit(shapes_of(tensors), shapes_of(upsampler.state_dict()))):
        raise WeightsError(f"{path} is an upsampler with another stride or width: {misfit}; use those of its training")
    require_finite(path, tensors)
    upsampler.load_state_dict(tensors)
    print_log(f"Upsampler weights: {path}, stride {upsampler.stride}", "current")
