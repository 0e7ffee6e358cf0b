"""The frozen encoder that a name, a checkpoint, a section of a config or a module stands for."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.backbones.contract import PE_STATISTICS, all_layers, with_layers
from pe_spatial.backbones.named import named_encoder
from pe_spatial.backbones.text.runs import is_core_folder
from pe_spatial.backbones.variants import VARIANTS
from pe_spatial.common.errors import ConfigError, OptionError, UnknownName, UserError, few, suggest
from pe_spatial.common.integrity import content_hash
from pe_spatial.inference.encoders import read_backbone
from pe_spatial.inference.exported_backbone import ExportedBackbone

Encoder = str | Path | Mapping[str, Any] | nn.Module
Layers = Sequence[int] | Literal["all"]

POOLS = ("none", "mean", "cls", "attention")
_CONTRACT = ("channels", "strides", "patch_size")


@dataclass(frozen=True)
class FrozenEncoder:
    """A backbone with what its features depend on besides the picture.

    Attributes:
        backbone: Keeps the contract of backbones; it is in evaluation mode.
        name: What people call it.
        settings: What its features depend on besides the weights.
        mean: Of the pixels per channel (RGB), on the scale 0…255.
        std: Their deviation, likewise.
        image_size: In pixels, of the pictures it was trained on; None where it does not say.
    """

    backbone: Any  # a module; its attributes are those of the contract
    name: str
    settings: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None

    @property
    def layers(self) -> tuple[int, ...]:
        """The numbers of the blocks that the maps come from; counted from 0 where the backbone names none."""
        named = getattr(self.backbone, "layers", None)
        return tuple(named) if named is not None else tuple(range(len(self.channels)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Of every map."""
        return tuple(self.backbone.channels)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of every map."""
        return tuple(self.backbone.strides)

    @property
    def pools(self) -> tuple[str, ...]:
        """The ways to one vector a picture that it has; `none` leaves the map."""
        return ("none", "mean", *getattr(self.backbone, "pools", ()))

    def describe(self) -> dict[str, Any]:
        """What its features depend on, as JSON, with a hash of the weights."""
        return {
            "encoder": self.name,
            "weights": content_hash(self.backbone.state_dict())[:16],
            "settings": dict(self.settings),
            "layers": list(self.layers),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def features(self, x: Tensor, pool: str) -> Sequence[Tensor]:
        """What normalized pictures [B, 3, H, W] give: maps [B, C, h, w], or vectors [B, C], one per layer."""
        if pool == "cls":
            tokens: Sequence[Tensor] = self.backbone.class_tokens(x)
            return tokens
        if pool == "attention":
            return [self.backbone.attention_pooled(x)]
        maps: Sequence[Tensor] = self.backbone(x)
        return maps if pool == "none" else [one.float().mean((2, 3)) for one in maps]


def open_encoder(
    encoder: Encoder, weights: str | None = None, layers: Layers | None = None, norm: bool = False
) -> FrozenEncoder:
    """Build or read an encoder.

    Args:
        encoder: The name of a released one, timm's name of one, or a folder with a PE-Core (`pe-spatial demo --words`);
            the file or the folder of a run of ours, or `hf://OWNER/NAME`; an exported encoder; the section of a config,
            a mapping with the `type` of any registered backbone; or a module that keeps their contract.
        weights: Of a released one or of a section: a file, a name, or "none" for random ones. None takes the released
            ones, and of a section those that it names.
        layers: Blocks from 0, or from the end if negative, or all; None takes those of the checkpoint, section or
            module, and the last one of a released encoder.
        norm: Apply the encoder's final norm, if it has one, to every layer; a section says it itself.

    Raises:
        UserError: No such encoder, or one that does not keep the contract or cannot give these layers.
    """
    preparation: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    is_place = isinstance(encoder, nn.Module) or _is_place(encoder)
    if weights is not None and is_place:
        raise OptionError(f"weights {weights} belong to a released encoder or a section; {encoder} has its own")
    if isinstance(encoder, nn.Module):
        backbone = encoder
        _select(backbone, layers)
    elif isinstance(encoder, Mapping):
        given = {**encoder, **({} if weights is None else {"weights": None if weights == "none" else weights})}
        backbone = _build(given, layers)
    elif is_place:
        backbone, preparation = read_backbone(Path(encoder).expanduser(), layers)
    else:
        backbone = _build(_named(str(encoder), weights), layers)
    _check(backbone, layers, norm)
    if isinstance(backbone, PEBackbone | TimmBackbone) and not isinstance(encoder, Mapping):
        backbone.norm = norm
        backbone.select_layers(backbone.layers)  # a norm may change the channels
    mean, std = (preparation.get(key, getattr(backbone, key, PE_STATISTICS)) for key in ("mean", "std"))
    size = getattr(backbone, "image_size", None)
    name, settings = _settings(backbone, given)
    return FrozenEncoder(backbone.eval().requires_grad_(False), name, settings, tuple(mean), tuple(std), size)


def _is_place(encoder: Encoder) -> bool:
    """Whether this is a checkpoint or a run of ours, and no name."""
    if isinstance(encoder, Mapping | nn.Module) or encoder in VARIANTS or is_core_folder(encoder):
        return False
    return str(encoder).startswith("hf://") or Path(encoder).expanduser().exists()


def _named(name: str, weights: str | None) -> dict[str, Any]:
    try:
        return named_encoder(name, weights)
    except UnknownName as error:
        raise UnknownName(str(error).replace("there is no encoder", "there is no encoder, checkpoint or run")) from None


def _build(section: Mapping[str, Any], layers: Layers | None) -> nn.Module:
    kind = section.get("type")
    if kind is None or (isinstance(kind, str) and MODELS.get(kind) is None):
        known = [name for name in MODELS.module_dict if name.endswith("Backbone")]
        raise UserError(f"no backbone is registered as {kind!r}; {suggest(str(kind), known)}")
    signature = inspect.signature(MODELS.get(kind) if isinstance(kind, str) else kind)
    try:
        signature.bind(**{key: value for key, value in section.items() if key not in ("type", "_scope_")})
    except TypeError as error:
        raise ConfigError(f"encoder {kind}: {error}; it takes {few(signature.parameters, 20)}") from error
    return MODELS.build(with_layers(section, layers))


def _check(backbone: nn.Module, layers: Layers | None, norm: bool) -> None:
    if norm and isinstance(backbone, ExportedBackbone):
        raise OptionError("the norm is fixed in an exported file; export the encoder with norm: true in its section")
    missing = [name for name in _CONTRACT if not hasattr(backbone, name)]
    if missing:
        raise OptionError(
            f"{type(backbone).__name__} is not a backbone for features: it has no {', '.join(missing)}; give it these "
            "attributes (channels and strides of its maps, and the side of a patch)"
        )
    chosen = list(getattr(backbone, "layers", ()))
    if len(set(chosen)) < len(chosen):
        raise OptionError(f"layers {chosen}: one is given twice; give each layer once")
    wanted = [] if layers is None or layers == "all" else [layer for layer in layers if layer >= 0]
    if layers is not None and (not chosen or not {*wanted} <= {*chosen}):
        there = chosen or "maps without numbers"
        raise OptionError(
            f"layers {layers if layers == 'all' else list(layers)} cannot be chosen: {type(backbone).__name__} returns "
            f"{there}; set its layers where it is built"
        )


def _select(backbone: Any, layers: Layers | None) -> None:  # noqa: ANN401 - its attributes are asked for
    if layers is not None and hasattr(backbone, "select_layers"):
        backbone.select_layers(all_layers(backbone) if layers == "all" else layers)


def _settings(backbone: nn.Module, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its name, and what its features depend on besides weights and layers."""
    if isinstance(backbone, PEBackbone):
        return backbone.config.name, backbone.settings()
    if isinstance(backbone, TimmBackbone | ExportedBackbone):
        return backbone.model, backbone.settings()
    settings = {key: value for key, value in given.items() if key not in ("weights", "layers")}
    kind, model = type(backbone).__name__, given.get("model")
    return model if isinstance(model, str) else kind, {"type": kind, **settings}
