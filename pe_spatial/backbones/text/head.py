"""TextAlignedHead: what a frozen encoder of maps needs so that its patches can be compared with words.

Letters: B pictures, N patches, C channels of the encoder, D of a feature; h, w rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.blocks import Block
from pe_spatial.backbones.contract import fit_to_grid
from pe_spatial.backbones.dense import PEBackbone
from pe_spatial.backbones.fine_maps import require_patches
from pe_spatial.backbones.rope import rotary_table
from pe_spatial.backbones.text.aligned import TextAlignedMap
from pe_spatial.backbones.text.contrast import mutual_cross_entropy
from pe_spatial.backbones.text.core import PECore
from pe_spatial.common.errors import ConfigError, OptionError, require_positive
from pe_spatial.common.linear import Linear
from pe_spatial.common.parts import build_options


@dataclass(frozen=True)
class MapLoss:
    """The head learns PE-Core's own map of the same picture (`TextAlignedMap`); it needs pictures alone.

    Args:
        weight: Of the loss.
        affinity: See `TextAlignedMap`; `backbone` stands for the frozen encoder under the head.
        beta: See `proxy_affinity`.
        gamma: See `proxy_affinity`.
    """

    weight: float = 1.0
    affinity: int | Mapping[str, Any] | Literal["backbone"] | None = None
    beta: float = 1.2
    gamma: float = 3.0


@dataclass(frozen=True)
class CaptionLoss:
    """The mean of the features of a picture learns to name its caption among those of the batch.

    Args:
        weight: Of the loss.
    """

    weight: float = 1.0


@MODELS.register_module()
class TextAlignedHead(nn.Module):
    """Blocks and a norm on a frozen encoder, and a projection to the features of PE-Core's words.

    The form is that of dino.txt (Jose et al., 2024): two blocks and a norm. There the text tower is trained along, at
    the width of the encoder; here it is PE-Core's and frozen, so a projection follows. What stands for a picture is the
    mean of its patches, without a class token.

    Args:
        core: A PE-Core, or the arguments `variant` and `weights` of one; frozen. It is part of the state dict.
        backbone: Config of a `PEBackbone` with one map, such as PE-Spatial; it is frozen.
        blocks: Number of trained blocks.
        map_loss: Fields of `MapLoss`; None leaves the loss out.
        caption_loss: Fields of `CaptionLoss`; None leaves the loss out.

    Raises:
        ConfigError: No loss, a backbone with several maps or with finer ones than its patches.
        OptionError: An encoder without a text tower, or no block.
    """

    def __init__(
        self,
        core: PECore | Mapping[str, Any],
        backbone: Mapping[str, Any],
        blocks: int = 2,
        map_loss: Mapping[str, Any] | None = None,
        caption_loss: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_positive(blocks=blocks)
        self.map_loss = None if map_loss is None else build_options(MapLoss, map_loss, "map_loss")
        self.caption_loss = None if caption_loss is None else build_options(CaptionLoss, caption_loss, "caption_loss")
        if self.map_loss is None and self.caption_loss is None:
            raise ConfigError(
                "neither map_loss nor caption_loss is given, so nothing would be learned; set at least one"
            )
        self.core = (core if isinstance(core, PECore) else PECore(**core)).requires_grad_(False)
        self.backbone: PEBackbone = MODELS.build({**backbone, "frozen": True})
        if len(self.backbone.channels) != 1:
            raise ConfigError(f"backbone.layers {list(self.backbone.layers)}: the head needs one map; give one layer")
        require_patches(self.backbone, type(self).__name__)
        config = replace(self.backbone.config, depth=blocks)
        self.blocks = nn.ModuleList(Block(config) for _ in range(blocks))
        self.norm = nn.LayerNorm(config.width)
        self.proj = Linear(config.width, self.core.output_dim)
        self.reset_parameters()
        self.train()

    def reset_parameters(self) -> None:
        """Draw new weights of what is trained: Xavier matrices, zero biases."""
        for part in (self.blocks, self.norm, self.proj):
            for name, parameter in part.named_parameters():
                if parameter.ndim >= 2:
                    nn.init.xavier_uniform_(parameter)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)

    @property
    def patch_size(self) -> int:
        """H and W of pictures are multiples of it."""
        return self.backbone.patch_size

    @property
    def output_dim(self) -> int:
        """D."""
        return self.core.output_dim

    def train(self, mode: bool = True) -> TextAlignedHead:
        """Switch training mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        self.core.eval()
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized pictures [B, 3, H, W] to features [B, D, h, w], not normalized.

        Raises:
            OptionError: H or W is not a multiple of the patch size.
        """
        with torch.no_grad():
            features = self.backbone(images)[0]
        grid = (features.shape[-2], features.shape[-1])
        rope = rotary_table(*grid, self.backbone.config.head_dim, images.device)
        tokens = features.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.proj(self.norm(tokens)).transpose(1, 2).unflatten(2, grid)

    def loss(self, images: Tensor, captions: Sequence[str] | None = None) -> dict[str, Tensor]:
        """`loss_map` and `loss_captions`, as far as they are asked for.

        Args:
            images: Normalized [B, 3, H, W].
            captions: One for each picture.

        Raises:
            OptionError: There are no captions, and the loss of captions is asked for.
        """
        features = self(images)
        losses = {}
        if self.map_loss is not None:
            cosines = F.cosine_similarity(features.float(), self._target(images, features).float(), dim=1)
            losses["loss_map"] = self.map_loss.weight * (1 - cosines.mean())
        if self.caption_loss is not None:
            if captions is None:
                raise OptionError(
                    "caption_loss needs pictures with captions (dataset CaptionedPictures); for pictures without "
                    "captions use map_loss"
                )
            losses["loss_captions"] = self.caption_loss.weight * self._contrast(features.mean(dim=(2, 3)), captions)
        return losses

    @torch.no_grad()
    def _target(self, images: Tensor, features: Tensor) -> Tensor:
        """PE-Core's own map of pictures that are resized to as many of its patches as `features` has."""
        options = self.map_loss
        assert options is not None  # `loss` asks  # noqa: S101
        affinity = self.backbone if options.affinity == "backbone" else options.affinity
        teacher = TextAlignedMap(self.core, affinity, options.beta, options.gamma)
        return teacher(fit_to_grid(images, (features.shape[-2], features.shape[-1]), teacher.patch_size))

    def _contrast(self, pooled: Tensor, captions: Sequence[str]) -> Tensor:
        """The mean of both cross entropies; equal captions are equal targets."""
        with torch.no_grad():
            texts = self.core.encode_text(list(captions), normalize=True).float()
        logits = self.core.logits(F.normalize(pooled.float(), dim=-1), texts)
        same = torch.tensor([[a == b for b in captions] for a in captions], device=logits.device)
        return mutual_cross_entropy(logits, same)
