"""The released Perception Encoders: one row each.

Shapes were read from the official checkpoints; see `tests/data/keys` for the key lists they are tested against.
Those of SAM 3's trunk were read from the public code, for its checkpoint is given on request only:
`sam3/model_builder.py` and `sam3/model/vitdet.py` of github.com/facebookresearch/sam3 at commit 99d02f2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

from pe_spatial.common.errors import OptionError, UnknownName, require_positive, suggest
from pe_spatial.common.parts import build_options


@dataclass(frozen=True)
class TextConfig:
    """The shape of the text tower that stands beside the encoder of PE-Core.

    Args:
        context: Tokens of the longest text, start and end included.
        width: Channels of a token.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden channels of an MLP over `width`.
        vocabulary: Number of tokens that there are.

    Raises:
        OptionError: A number below 1, a context without room for a word, or heads that do not divide the width.
    """

    context: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    vocabulary: int = 49408

    layer_scale: ClassVar[None] = None  # which a block asks for; no released text tower has one

    def __post_init__(self) -> None:
        require_positive(width=self.width, depth=self.depth, heads=self.heads, vocabulary=self.vocabulary)
        if self.context < 3:
            raise OptionError(f"context {self.context} has no room for a start, a word and an end; give at least 3")
        if self.width % self.heads:
            raise OptionError(f"text width {self.width} does not divide among {self.heads} heads; change either")

    @property
    def mlp_dim(self) -> int:
        """Hidden channels of an MLP."""
        return int(self.width * self.mlp_ratio)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that fixes the shape of an encoder and the meaning of its weights.

    Args:
        name: Official name, for example `PE-Spatial-B16-512`; free text for your own encoders.
        patch_size: Side of a square patch in pixels.
        width: Channels of a token.
        depth: Number of blocks.
        heads: Attention heads; `width // heads` must be a multiple of 4 (two axes of rotated pairs).
        mlp_ratio: Hidden channels of an MLP over `width`.
        image_size: Side in pixels of the square images of pretraining; it sets the grid of the position table.
        cls_token: Whether a class token precedes the patch tokens.
        layer_scale: Initial value of LayerScale, or None for an encoder without it.
        ln_post: Whether a LayerNorm follows the last block.
        attn_pool: Whether an attention-pooling head follows (PE-Core).
        pool_heads: Attention heads of that pooling.
        output_dim: Channels of the final projection, or None for an encoder without it.
        text: The text tower that was trained with the encoder, which `PECore` builds; None where there is none. A
            mapping of the fields of `TextConfig` is taken too.
    """

    name: str
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    image_size: int
    cls_token: bool
    layer_scale: float | None = None
    ln_post: bool = False
    attn_pool: bool = False
    pool_heads: int = 8
    output_dim: int | None = None
    text: TextConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.text, Mapping):
            object.__setattr__(self, "text", build_options(TextConfig, self.text, f"{self.name}: text"))
        for name in ("patch_size", "width", "depth", "heads", "image_size", "pool_heads"):
            if getattr(self, name) < 1:
                raise OptionError(f"{self.name}: {name} {getattr(self, name)} must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise OptionError(
                f"{self.name}: width {self.width} over {self.heads} heads gives {self.width / self.heads:g} channels a "
                "head; rotary positions on two axes need a whole multiple of 4: change width or heads"
            )
        if self.image_size % self.patch_size:
            raise OptionError(
                f"{self.name}: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                f"use {self.image_size // self.patch_size * self.patch_size} or another patch size"
            )
        if self.attn_pool and self.width % self.pool_heads:
            raise OptionError(
                f"{self.name}: width {self.width} does not divide among {self.pool_heads} pool_heads; change either"
            )

    @property
    def grid_size(self) -> int:
        """Side of the square pretraining grid, in patches."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.width // self.heads

    @property
    def mlp_dim(self) -> int:
        """Hidden channels of an MLP."""
        return int(self.width * self.mlp_ratio)


_TINY = {"patch_size": 16, "width": 192, "depth": 12, "heads": 3, "mlp_ratio": 4.0, "cls_token": True}
_SMALL = {**_TINY, "width": 384, "heads": 6}
_BASE = {**_TINY, "width": 768, "heads": 12}
_LARGE = {**_TINY, "patch_size": 14, "width": 1024, "depth": 24, "heads": 16}
_GIANT = {**_LARGE, "width": 1536, "depth": 50, "mlp_ratio": 8960 / 1536, "cls_token": False}
_CORE: dict[str, Any] = {"ln_post": True, "attn_pool": True}
_LANG_L = {**_LARGE, "depth": 23, "image_size": 448, "layer_scale": 0.1}
_LANG_G = {**_GIANT, "depth": 47, "image_size": 448, "layer_scale": 0.1}

_SMALL_TEXT = TextConfig(context=32, width=512, depth=12, heads=8)
_LARGE_TEXT = TextConfig(context=32, width=1024, depth=24, heads=16)
_GIANT_TEXT = TextConfig(context=72, width=1280, depth=24, heads=20)

_ROWS: dict[str, dict[str, Any]] = {
    "PE-Core-T16-384": {**_TINY, **_CORE, "image_size": 384, "output_dim": 512, "text": _SMALL_TEXT},
    "PE-Core-S16-384": {**_SMALL, **_CORE, "image_size": 384, "output_dim": 512, "text": _SMALL_TEXT},
    "PE-Core-B16-224": {**_BASE, **_CORE, "image_size": 224, "output_dim": 1024, "text": _LARGE_TEXT},
    "PE-Core-L14-336": {**_LARGE, **_CORE, "image_size": 336, "output_dim": 1024, "text": _LARGE_TEXT},
    "PE-Core-G14-448": {**_GIANT, **_CORE, "image_size": 448, "output_dim": 1280, "text": _GIANT_TEXT},
    "PE-Lang-L14-448": _LANG_L,
    "PE-Lang-G14-448": _LANG_G,
    "PE-Lang-L14-448-Tiling": _LANG_L,
    "PE-Lang-G14-448-Tiling": _LANG_G,
    "PE-Spatial-T16-512": {**_TINY, "image_size": 512},
    "PE-Spatial-S16-512": {**_SMALL, "image_size": 512},
    "PE-Spatial-B16-512": {**_BASE, "image_size": 512},
    "PE-Spatial-L14-448": {**_LARGE, "image_size": 448},
    "PE-Spatial-G14-448": {**_GIANT, "image_size": 448, "layer_scale": 0.1},
    # SAM 3's trunk: its table is of 336 px and is tiled over the 1008 px that it was trained on; see TRAINED_WITH
    "SAM3-L14-1008": {**_LARGE, "depth": 32, "mlp_ratio": 4.625, "image_size": 336, "cls_token": False},
}

VARIANTS: dict[str, EncoderConfig] = {name: EncoderConfig(name=name, **row) for name, row in _ROWS.items()}


class Training(NamedTuple):
    """What an encoder was last trained with, where it is not what the defaults of `PEBackbone` are.

    Args:
        grid: Side of the square images, in patches.
        options: Of `PEBackbone`, with which its maps are those of the training.
    """

    grid: int
    options: dict[str, Any]


_SAM3_OPTIONS = {"window": 24, "global_blocks": [7, 15, 23, 31], "rope": "interpolate", "pos_embed": "tile"}
TRAINED_WITH: dict[str, Training] = {"SAM3-L14-1008": Training(grid=72, options=_SAM3_OPTIONS)}


def get_variant(variant: str | EncoderConfig | Mapping[str, Any]) -> EncoderConfig:
    """Return the configuration of an encoder.

    Args:
        variant: An official name (`PE-Spatial-B16-512`); a configuration; or a mapping of its fields, in which
            `base` may name a released encoder whose other fields are kept, for an encoder of your own:
            `{base: PE-Spatial-T16-512, name: tiny, width: 128, depth: 4, heads: 4, image_size: 128}`.

    Raises:
        KeyError: An unknown name or field; the message names the nearest one.
        OptionError: a field that is missing or that breaks a rule of `EncoderConfig`.
    """
    if isinstance(variant, EncoderConfig):
        return variant
    if isinstance(variant, str):
        if variant not in VARIANTS:
            raise UnknownName(f"there is no encoder {variant!r}; {suggest(variant, VARIANTS)}")
        return VARIANTS[variant]
    own = dict(variant)
    base = own.pop("base", None)
    names = {field.name for field in fields(EncoderConfig)}
    for key in own:
        if key not in names:
            raise UnknownName(f"an encoder has no field {key!r}; {suggest(key, names)}")
    own.setdefault("name", "custom")
    if base is not None:
        return replace(get_variant(base), **own)
    try:
        return EncoderConfig(**own)
    except TypeError as error:
        raise OptionError(f"encoder {own['name']!r}: {error}; give the field or start from one with `base`") from None
