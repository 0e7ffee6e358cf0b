"""The blocks of an encoder for tokens that are added to its own, such as the queries of the mask decoder.

Letters: B images; N tokens in the order: Q added ones, the encoder's prefix (class token, registers), patches; C
channels.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pe_spatial.backbones.dense import PEBackbone
from pe_spatial.backbones.timm_backbone import TimmBackbone
from pe_spatial.backbones.vit import VisionTransformer
from pe_spatial.common.errors import OptionError


class TokenBlocks(ABC):
    """The blocks of one encoder.

    Attributes:
        depth: How many there are.
        width: C.
    """

    depth: int
    width: int

    def is_windowed(self, block: int) -> bool:
        """Whether the tokens of a block attend in windows."""
        return False

    @abstractmethod
    def before(self, inputs: Tensor, block: int) -> Tensor:
        """The encoder's own tokens [B, N - Q, C] of images [B, 3, H, W] before a block, which is not the first."""

    @abstractmethod
    def places(self, grid: tuple[int, int], count: int, device: torch.device) -> Tensor | None:
        """What the blocks need to know of the places of all N tokens: of Q added ones, and of a grid (h, w)."""

    @abstractmethod
    def run(self, block: int, tokens: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        """Run one block on all tokens [B, N, C].

        Args:
            block: Its number from 0.
            tokens: Of `before`, with the added ones in front.
            places: Of `places`.
            mask: bool [B, 1, N, N], True where the token of the row attends to that of the column; None: everywhere.
        """


def token_blocks(backbone: Any) -> TokenBlocks:  # noqa: ANN401 - any registered backbone
    """The blocks of a backbone, or of an encoder of ours.

    Raises:
        OptionError: It has none that take more tokens than its own.
    """
    if isinstance(backbone, PEBackbone | VisionTransformer):
        return _OfPE(backbone.encoder if isinstance(backbone, PEBackbone) else backbone)
    if not isinstance(backbone, TimmBackbone):
        raise OptionError(
            f"queries cannot join the blocks of {type(backbone).__name__}; use a PEBackbone, or a TimmBackbone with a "
            "plain vision transformer"
        )
    from timm.models import eva, vision_transformer

    model = backbone.encoder
    kinds: dict[type, type[_OfTimm]] = {vision_transformer.VisionTransformer: _OfTimm, eva.Eva: _OfRotaryTimm}
    found = kinds.get(type(model))
    takes = all("attn_mask" in inspect.signature(block.forward).parameters for block in getattr(model, "blocks", ()))
    if found is None or not takes or getattr(model, "rope_mixed", False):
        raise OptionError(
            f"queries cannot join the blocks of {backbone.model}: it is not a plain vision transformer of timm "
            f"({type(model).__name__}); use one, or a head that only needs maps (linear, UperNet)"
        )
    return found(backbone)


class _OfPE(TokenBlocks):
    def __init__(self, encoder: VisionTransformer) -> None:
        self.encoder = encoder
        self.depth = encoder.config.depth
        self.width = encoder.config.width

    def is_windowed(self, block: int) -> bool:
        return self.encoder.windowed[block]

    def before(self, inputs: Tensor, block: int) -> Tensor:
        return self.encoder.forward_features(inputs, [block - 1])[0]

    def places(self, grid: tuple[int, int], count: int, device: torch.device) -> Tensor | None:
        table = self.encoder.rope(grid, device)  # [N - Q, D/2, 2]
        identity = table.new_tensor([1.0, 0.0]).expand(count, table.shape[1], 2)  # (cos, sin) of the angle 0
        return torch.cat([identity, table])

    def run(self, block: int, tokens: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        assert places is not None
        return self.encoder.run_block(block, tokens, places, mask=mask)


class _OfTimm(TokenBlocks):
    """Blocks of timm's `VisionTransformer`, whose tokens have their places in them."""

    def __init__(self, backbone: TimmBackbone) -> None:
        self.model: Any = backbone.encoder
        self.depth = backbone.depth
        self.width = backbone.channels[0]

    def before(self, inputs: Tensor, block: int) -> Tensor:
        model = self.model
        tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(inputs))))
        for number in range(block):
            tokens = self.run(number, tokens, None, None)
        return tokens

    def places(self, grid: tuple[int, int], count: int, device: torch.device) -> Tensor | None:
        return None

    def run(self, block: int, tokens: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        return self._call(self.model.blocks[block], tokens, attn_mask=mask)

    def _call(self, block: Any, tokens: Tensor, **given: Tensor | None) -> Tensor:
        if self.model.grad_checkpointing and self.model.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(partial(block, **given), tokens, use_reentrant=False)
            return again
        once: Tensor = block(tokens, **given)
        return once


class _OfRotaryTimm(_OfTimm):
    """Blocks of timm's `Eva` (EVA, DINOv3): all but the first tokens, as many as its prefix, are rotated."""

    def before(self, inputs: Tensor, block: int) -> Tensor:
        model = self.model
        tokens, table = model._pos_embed(model.patch_embed(inputs))
        tokens = model.norm_pre(tokens)
        for number in range(block):
            tokens = self.run(number, tokens, table, None)
        return tokens

    def places(self, grid: tuple[int, int], count: int, device: torch.device) -> Tensor | None:
        if self.model.rope is None:
            return None
        table = self.model.rope.get_embed(shape=grid).to(device)  # [h * w, sines and cosines of a head]
        # of prefix and added tokens as many as the prefix has are not rotated; the others get the angle 0
        sines, cosines = table.new_zeros(count, table.shape[-1] // 2), table.new_ones(count, table.shape[-1] // 2)
        return torch.cat([torch.cat([sines, cosines], dim=-1), table])

    def run(self, block: int, tokens: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        return self._call(self.model.blocks[block], tokens, rope=places, attn_mask=mask)
