"""PEBackboneForTransformers: PEBackbone with the manners of transformers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BackboneOutput
from transformers.utils.generic import can_return_tuple

from pe_spatial.backbones import EncoderConfig, PEBackbone, SimpleFeaturePyramid
from pe_spatial.common.errors import OptionError, few
from pe_spatial.common.tensors import WeightsError
from pe_spatial.integrations.transformers.config import PEConfig


class _KeepOurName(WeightRenaming):
    """Undo, in our part of a head's file, what a head renames in its own: DETR takes every `out_proj` for its `o_proj`.

    Nothing is renamed while a file is written.
    """

    def reverse_transform(self) -> WeightRenaming:
        return self


# the mixin comes first: it hooks the construction of the model
class PEBackboneForTransformers(BackboneMixin, PreTrainedModel):
    """A Perception Encoder as a backbone of transformers.

    Args:
        config: See `PEConfig`.
        weights: An official name or a file; None draws random weights.
        adapt: See `PEBackbone`.

    Attributes:
        body: The `PEBackbone`.
        pyramid: The `SimpleFeaturePyramid`, or None.
        channels: Channels of every stage that is returned.

    Raises:
        OptionError: An option outside its range.
        WeightsError: The weights do not fit.
    """

    config_class = PEConfig
    config: PEConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    has_attentions = False  # a fused kernel computes them; they are never there to be returned
    _supports_sdpa = True
    _no_split_modules = ["Block"]

    def __init__(self, config: PEConfig, weights: str | None = None, adapt: Sequence[str] = ()) -> None:
        config.check()
        super().__init__(config)
        self.body = PEBackbone(
            config.encoder,
            config.blocks,
            norm=config.norm,
            window=config.window,
            global_blocks=config.global_blocks,
            rope=config.rope,
            pos_embed=config.pos_embed,
            drop_path=config.drop_path,
            frozen=config.frozen,
            weights=weights,
            adapt=adapt,
        )
        width, patch = config.encoder.width, config.encoder.patch_size
        self.pyramid: SimpleFeaturePyramid | None = None
        if config.form == "pyramid":
            levels = [stage + 1 for stage in config.stages]  # stage 1 is p2
            self.pyramid = SimpleFeaturePyramid(width, patch, config.pyramid_channels, levels)
            width = config.pyramid_channels
        self.num_features = [width] * len(config.stage_names)  # the mixin's own construction sets it to None
        self.gradient_checkpointing = False
        self._stages = config.stages
        # transformers builds on the meta device what it fills from a file
        self._is_loading = any(parameter.is_meta for parameter in self.parameters())
        self.post_init()

    @classmethod
    def from_pe(
        cls,
        variant: str | EncoderConfig | Mapping[str, Any],
        weights: str | Path | None = None,
        adapt: Sequence[str] = (),
        **options: Any,
    ) -> PEBackboneForTransformers:
        """Build a backbone with weights of Perception Encoder, in any layout that `PEBackbone` reads.

        Args:
            variant: See `PEConfig`.
            weights: An official name or a file; None takes the official weights of the variant.
            adapt: See `PEBackbone`.
            **options: The other options of `PEConfig`.

        Raises:
            FileNotFoundError: See `pe_spatial.backbones.weights.find`.
            OptionError: An option outside its range; or an encoder of one's own and no weights.
            UnknownName: See `PEConfig`.
            WeightsError: The file holds no encoder or another one.
        """
        config = PEConfig(variant=variant, **options)
        if weights is None:
            if not isinstance(config.variant, str):
                raise OptionError(
                    f"an encoder of your own ({config.encoder.name}) has no official weights; name a file"
                )
            weights = config.variant
        return cls(config, str(weights), adapt)

    def train(self, mode: bool = True) -> PEBackboneForTransformers:
        """Switch training mode; frozen blocks stay in evaluation mode."""
        super().train(mode)
        if self._is_loading and not any(parameter.is_meta for parameter in self.parameters()):
            # transformers replaces parameters by those of the file, which all require a gradient, and calls `eval` last
            self.body.fix_parameters()
            self._is_loading = False
        return self

    @can_return_tuple
    def forward(self, pixel_values: Tensor, **_: Any) -> BackboneOutput:
        """Map normalized images to the stages of `out_features`.

        Args:
            pixel_values: [B, 3, H, W], as `image_processor` makes them; H and W are multiples of the patch size.
            **_: What heads hand to backbones of other kinds; hidden states and attentions are not returned.

        Returns:
            `feature_maps`, a tuple with one tensor for each stage; see `form` of `PEConfig`.

        Raises:
            OptionError: H or W is no multiple of the patch size; or `out_features` were changed after construction.
        """
        if self.config.stages != self._stages:
            raise OptionError(
                f"out_features became {self.out_features} after construction; pass them to from_pretrained or PEConfig"
            )
        self.body.encoder.checkpointing = self.gradient_checkpointing
        images = pixel_values.to(self.dtype)
        # transformers annotates a tuple of one
        feature_maps: Any = self._tokens(images) if self.config.form == "tokens" else self.body(images)
        if self.pyramid is not None:
            feature_maps = self.pyramid(feature_maps)
        return BackboneOutput(feature_maps=feature_maps)

    def _tokens(self, images: Tensor) -> tuple[Tensor, ...]:
        """The tokens [B, N, C] of the stages, with or without a first one that stands for the whole image."""
        encoder = self.body.encoder
        outputs = encoder.forward_features(images, self.body.layers, self.body.norm)
        if not self.config.first_token:
            return tuple(tokens[:, int(encoder.has_cls) :] for tokens in outputs)
        if encoder.has_cls:
            return tuple(outputs)
        return tuple(torch.cat((tokens.mean(dim=1, keepdim=True), tokens), dim=1) for tokens in outputs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw what a file that is being loaded did not hold: transformers has left its memory as it was.

        Raises:
            WeightsError: A part of the encoder is missing. A pyramid may be: a file of maps has none.
        """
        if not self._is_loading or _is_loaded(module.parameters(recurse=False)):
            return
        missing = [name for name, parameter in self.body.named_parameters() if not _is_loaded([parameter])]
        if missing:
            raise WeightsError(
                f"the folder lacks {len(missing)} tensors of the encoder ({few(missing)}): it may be a head or another "
                "encoder; load a head with its own class, and files of other layouts with from_pe"
            )
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.LayerNorm):  # what a pyramid consists of
            module.reset_parameters()


def _is_loaded(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether transformers has marked all of them as read from a file."""
    return all(getattr(parameter, "_is_hf_initialized", False) for parameter in parameters)


register_checkpoint_conversion_mapping(
    PEBackboneForTransformers.__name__, [_KeepOurName(r"attn\.o_proj", "attn.out_proj")], overwrite=True
)
