"""PEConfig: what transformers knows about an encoder, and the stages that a head may ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from pe_spatial.backbones import EncoderConfig, get_variant
from pe_spatial.common.errors import ConfigError, OptionError, UnknownName, require_choice, suggest

FORMS = ("maps", "tokens", "pyramid")
LEVELS = 4  # stages of the pyramid, p2 to p5


class PEConfig(BackboneConfigMixin, PreTrainedConfig):
    """Options of `PEBackboneForTransformers`; the arguments of `PEBackbone` keep their names and meaning.

    Stages are counted as transformers does: the stem is 0, so stage k is the output of block k - 1 of `PEBackbone`.
    The stages of a pyramid are its maps: stage 1 to 4 are p2 to p5, of strides 4 to 32 for patches of 16, as of a
    convolutional network. The stem itself is no output.

    Args:
        variant: Official name, or a mapping of the fields of `EncoderConfig`, in which `base` may name a released
            encoder: `{base: PE-Spatial-T16-512, width: 64, depth: 4, heads: 2, image_size: 128}`.
        form: What a stage is: `maps` [B, C, h, w]; `tokens` [B, 1 + h * w, C], row by row; or `pyramid`, the maps
            [B, pyramid_channels, h_k, w_k] of `SimpleFeaturePyramid`.
        first_token: Whether tokens begin with the class token, or with the mean of the others for an encoder without
            it. DPT needs one, VitPose takes none.
        out_features: Names of the stages that are returned, in ascending order. The last block, or all four maps of a
            pyramid, if neither these nor `out_indices` are given.
        out_indices: Their numbers instead, or from the end if negative.
        pyramid_stage: Stage of the encoder that the pyramid is built on, from the end if negative.
        pyramid_channels: Channels of the maps of a pyramid.
        norm: See `PEBackbone`.
        window: See `PEBackbone`.
        global_blocks: See `PEBackbone`; blocks from 0.
        rope: See `PEBackbone`.
        pos_embed: See `PEBackbone`.
        drop_path: See `PEBackbone`.
        frozen: See `PEBackbone`.
        patch_size: See `PEBackbone`; a pair of equal numbers where a head reads two. None takes the variant's.
        image_size: Pixels of the images, one side or (H, W), for heads of a fixed size and for the image processor;
            the backbone itself takes any. None takes that of the variant.
        num_channels: 3, where heads ask for it.

    Raises:
        UnknownName: An encoder, a field of it or an option that does not exist; the message names the nearest one.
        OptionError: A stage that does not exist, or an option outside its range.
    """

    model_type: ClassVar[str] = "pe_spatial"

    variant: str | EncoderConfig | Mapping[str, Any] = "PE-Spatial-S16-512"
    form: str = "maps"
    first_token: bool = True
    pyramid_stage: int = -1
    pyramid_channels: int = 256
    norm: bool = False
    window: int | None = None
    global_blocks: Sequence[int] = ()
    rope: str | int = "extrapolate"
    pos_embed: str = "bilinear"
    drop_path: float = 0.0
    frozen: bool | int = False
    patch_size: int | Sequence[int] | None = None
    image_size: int | Sequence[int] | None = None
    num_channels: int = 3
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what the variant knows, and align the stages; transformers calls this after the fields are set."""
        features, indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        # what follows from the variant
        self._refuse_unknown([name for name in kwargs if isinstance(vars(PEConfig).get(name), property)])
        super().__post_init__(**kwargs)
        plain = PreTrainedConfig()
        # what transformers has kept although nobody reads it; its own options are not among it
        self._refuse_unknown([name for name in kwargs if name in vars(self) and not hasattr(plain, name)])
        if not isinstance(self.variant, str):  # to JSON and back
            self.variant = asdict(self.variant) if isinstance(self.variant, EncoderConfig) else dict(self.variant)
        if self.patch_size is None:
            self.patch_size = get_variant(self.variant).patch_size
        if self.image_size is None:
            self.image_size = self.encoder.image_size
        self.check()
        self.set_output_features_output_indices(features, indices)

    def _refuse_unknown(self, names: Sequence[str]) -> None:
        for name in names:
            ours = fields(PEConfig)[len(fields(PreTrainedConfig)) :]
            known = [field.name.removeprefix("_") for field in ours]
            raise UnknownName(
                f"PEConfig has no option {name!r}; {suggest(name, known)} (sizes of the encoder are in variant)"
            )

    @property
    def encoder(self) -> EncoderConfig:
        """The encoder, with patches of `patch_size`."""
        config = get_variant(self.variant)
        patch = self.patch_side
        return replace(config, patch_size=patch, image_size=patch * config.grid_size)

    @property
    def patch_side(self) -> int:
        """Side of a patch in pixels."""
        sides = side_pair(self.patch_size)
        if sides[0] != sides[1]:
            raise OptionError(f"patch_size {self.patch_size}: patches must be square; give one number")
        return sides[0]

    @property
    def hidden_size(self) -> int:
        """Channels of a token."""
        return self.encoder.width

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return self.encoder.depth

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of a block."""
        return self.encoder.heads

    @property
    def stage_names(self) -> list[str]:
        """`stem`, and `stage1` to `stageN` for N blocks or N maps of the pyramid."""
        number = LEVELS if self.form == "pyramid" else self.encoder.depth
        return ["stem", *(f"stage{i}" for i in range(1, number + 1))]

    @property
    def stages(self) -> list[int]:
        """Numbers of the stages that are returned, from 1."""
        return [index % len(self.stage_names) for index in self._out_indices or ()]

    @property
    def blocks(self) -> list[int]:
        """Blocks of `PEBackbone` that are read, from 0."""
        if self.form != "pyramid":
            return [stage - 1 for stage in self.stages]
        depth = self.encoder.depth
        if not -depth <= self.pyramid_stage <= depth or self.pyramid_stage == 0:
            raise OptionError(f"pyramid_stage {self.pyramid_stage} is not a block; use 1 to {depth}, or -{depth} to -1")
        return [self.pyramid_stage % (depth + 1) - 1]

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            OptionError: An unknown form, images that are not RGB, or whose sides are no multiples of the patch.
        """
        require_choice("form", self.form, FORMS)
        if self.num_channels != 3:
            raise OptionError(f"num_channels {self.num_channels}: the encoders need RGB images, 3 channels")
        patch = self.patch_side
        for side in side_pair(self.image_size):
            if side % patch or side < patch:
                raise OptionError(
                    f"image_size {self.image_size} is not a multiple of the patch size {patch}; "
                    f"use {max(side // patch, 1) * patch} or {(side // patch + 1) * patch}"
                )
        _ = self.blocks

    def set_output_features_output_indices(
        self, out_features: Sequence[str] | None, out_indices: Sequence[int] | None
    ) -> None:
        """Set the stages that are returned, by name, by number, or both.

        Raises:
            OptionError: One of them does not exist, is the stem, or they are not in ascending order.
        """
        names = self.stage_names
        last = len(names) - 1
        for name in out_features or ():
            if name not in names:
                raise OptionError(f"out_features: no stage is called {name!r}; {suggest(str(name), names[1:])}")
        for index in out_indices or ():
            # transformers takes a number below -N modulo N
            if not -last - 1 <= index <= last:
                raise OptionError(f"out_indices: there is no stage {index}; use 1 to {last}, or -{last} to -1")
        if "stem" in (out_features or ()) or any(index % (last + 1) == 0 for index in out_indices or ()):
            raise OptionError(
                f"the stem (0) is not an output; use stages 1 to {last}; stage k is the output of block k-1"
            )
        if self.form == "pyramid" and not out_features and not out_indices:
            out_indices = range(1, LEVELS + 1)
        try:
            super().set_output_features_output_indices(
                None if out_features is None else list(out_features), None if out_indices is None else list(out_indices)
            )
        except ValueError as error:  # order, duplicates, names and numbers that differ
            raise OptionError(str(error)) from error

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # noqa: ANN401 - as transformers has it
        """Build a config from what a `config.json` holds.

        Raises:
            ConfigError: It is that of another type of model.
        """
        theirs = config_dict.get("model_type", cls.model_type)
        if theirs != cls.model_type:
            raise ConfigError(f"this is a model of type {theirs!r}, not {cls.model_type!r}; give another folder")
        return super().from_dict(config_dict, **kwargs)


def side_pair(size: int | Sequence[int] | None) -> tuple[int, int]:
    """(H, W) of a side or of two."""
    sides = (size, size) if isinstance(size, int) else tuple(size or ())
    if len(sides) != 2:
        raise OptionError(f"{size!r} is not a size; give one number of pixels, or two (H, W)")
    return sides
