"""What models ask of a backbone, asked once: when they are built.

`pe_spatial.common.contracts.Backbone` is the contract. A model builds its backbone with `build_backbone`, its
preprocessor with `with_statistics`, and learns what a config would build from `sketch`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.common.errors import ConfigError, OptionError, few

_ATTRIBUTES = ("channels", "strides")  # what all models ask; patch_size and layer_of are asked by some
PE_STATISTICS = (127.5, 127.5, 127.5)  # PE's mean and its deviation, per channel, on the scale 0…255
_SAME = 1.0  # gray level; the official detectors round 127.5 to 127


def build_backbone(
    settings: Mapping[str, Any] | nn.Module, user: str, maps: int | None = None, needs: Sequence[str] = ()
) -> Any:  # noqa: ANN401 - any registered backbone
    """Build a backbone that a model can use.

    Args:
        settings: Of a registered backbone, or one that is built.
        user: Who uses it, for messages.
        maps: How many maps the user takes; None takes any number.
        needs: Attributes that the user asks for besides channels and strides.

    Raises:
        ConfigError: It is no backbone.
        OptionError: It gives another number of maps.
    """
    module: Any = settings if isinstance(settings, nn.Module) else MODELS.build(dict(settings))
    name = type(module).__name__
    if missing := [attribute for attribute in (*_ATTRIBUTES, *needs) if not hasattr(module, attribute)]:
        raise ConfigError(
            f"{user} cannot use {name} as a backbone: it has no {few(missing, 4)}; PEBackbone and TimmBackbone have "
            "them; docs/developing/contracts.md describes the contract"
        )
    if len(module.channels) != len(module.strides):
        raise ConfigError(
            f"{name} has {len(module.channels)} channels {tuple(module.channels)} and {len(module.strides)} "
            f"strides {tuple(module.strides)}; a backbone needs one of each for every map"
        )
    if maps is not None and len(module.channels) != maps:
        count = "one map" if maps == 1 else f"{maps} maps"
        raise OptionError(
            f"{user} takes {count}, but {name} gives {len(module.channels)} (layers "
            f"{list(getattr(module, 'layers', ()))}); set backbone.layers to as many layers"
        )
    return module


def with_statistics(settings: Mapping[str, Any] | None, backbone: Any) -> dict[str, Any] | None:  # noqa: ANN401
    """The settings of a preprocessor, with the statistics that a backbone asks for.

    Args:
        settings: As in the config; None stays None.
        backbone: If it has `mean` and `std` and not `free_statistics`, these take the place of values that the
            settings leave out.

    Raises:
        ConfigError: The settings contradict the backbone: other statistics, or a size that is not whole patches.
    """
    if settings is None:
        return None
    found = dict(settings)
    if not getattr(backbone, "free_statistics", True):
        for key in ("mean", "std"):
            own = [float(value) for value in getattr(backbone, key)]
            stated = found.get(key)
            if stated is None:
                found[key] = own
            elif len(stated) != len(own) or max(abs(a - b) for a, b in zip(stated, own, strict=True)) > _SAME:
                raise ConfigError(
                    f"data_preprocessor.{key} is {list(stated)}, but the encoder {getattr(backbone, 'model', '')} was "
                    f"trained with {[round(value, 3) for value in own]}; leave {key} out of data_preprocessor, or use "
                    "the encoder that it belongs to"
                )
    divisor, patch = found.get("size_divisor", 1), getattr(backbone, "patch_size", 1)
    if divisor > 1 and divisor % patch:
        raise ConfigError(
            f"data_preprocessor.size_divisor is {divisor}, but the encoder takes multiples of {patch}; set "
            f"size_divisor: {patch}"
        )
    return found


def grid_of(backbone: Any, x: Tensor) -> tuple[int, int]:  # noqa: ANN401 - any registered backbone
    """Rows and columns of the patches of images [B, 3, H, W].

    Raises:
        OptionError: H or W is not a multiple of the patch size.
    """
    patch = int(backbone.patch_size)
    H, W = x.shape[-2:]
    if H % patch or W % patch or min(H, W) < patch:
        raise OptionError(
            f"an image of {H} x {W} is not a multiple of the patch size {patch}; resize the images or pad them, for "
            f"example with DensePreprocessor(size_divisor={patch})"
        )
    return H // patch, W // patch


def fit_to_grid(images: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Images [B, 3, H, W] at the size of which an encoder makes a grid of tokens (h, w)."""
    size = [cells * patch_size for cells in grid]
    if list(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def renormalize(images: Tensor, given: Any, wanted: Any) -> Tensor:  # noqa: ANN401 - any registered backbones
    """Images [B, 3, H, W] that are normalized for one encoder, as another one takes them.

    Args:
        images: x = (pixels - mean) / std by the statistics of `given`.
        given: A backbone; None, or one without statistics, stands for PE's.
        wanted: Another, likewise.
    """
    of_given, of_wanted = (
        [tuple(getattr(backbone, key, PE_STATISTICS)) for key in ("mean", "std")] for backbone in (given, wanted)
    )
    if of_given == of_wanted:
        return images
    mean, std, other_mean, other_std = (images.new_tensor(each).view(3, 1, 1) for each in (*of_given, *of_wanted))
    return (images * std + mean - other_mean) / other_std


def sketch(settings: Mapping[str, Any], **changes: Any) -> Any:  # noqa: ANN401 - any registered backbone
    """The backbone of a config without memory, weights and upsampling, to ask it what it is.

    Args:
        settings: Of a registered backbone.
        **changes: Settings to replace.
    """
    unweighted = {key: value for key, value in (("weights", None), ("upsampling", "bilinear")) if key in settings}
    # a sketch draws no random numbers that what is built afterwards would have drawn
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return build_backbone({**settings, **unweighted, **changes}, "a sketch")


def with_layers(settings: Mapping[str, Any], layers: Sequence[int] | Literal["all"] | None) -> dict[str, Any]:
    """The section of a backbone that returns the maps of chosen layers.

    Args:
        settings: Of a registered backbone.
        layers: That it returns, or all that it has; None takes those of the settings.

    Raises:
        OptionError: All are asked of a backbone that does not say how many it has.
    """
    if layers is None:
        return dict(settings)
    return {**settings, "layers": all_layers(sketch(settings)) if layers == "all" else list(layers)}


def all_layers(backbone: Any) -> list[int]:  # noqa: ANN401 - any registered backbone
    """The numbers of all layers that a backbone has.

    Raises:
        OptionError: It does not say how many.
    """
    if not hasattr(backbone, "depth"):
        raise OptionError(f"{type(backbone).__name__} does not say how many layers it has (depth); set layers")
    return list(range(backbone.depth))


def comes_from_its_file(settings: Mapping[str, Any]) -> bool:
    """Whether checkpoints do without the encoder of a section of a config, which is read from its file again."""
    if not settings.get("weights"):
        return False
    is_foreign = settings.get("type") == "TimmBackbone" and settings.get("frozen") is True
    return settings.get("lora") is not None or (is_foreign and not settings.get("in_checkpoint"))
