"""The parts of the Perception Encoder: the transformer block, and the attention pooling of PE-Core.

Module names and parameter layouts are those of the official checkpoints.

Letters: B images, N tokens, C channels, H heads, D channels of a head.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from pe_spatial.backbones.rope import apply_rotary, apply_rotary_densely, writes_into
from pe_spatial.backbones.variants import EncoderConfig, TextConfig
from pe_spatial.common.attention import attention
from pe_spatial.common.linear import Linear, linear


class Attention(nn.Module):
    """Self-attention of all tokens given to it, with rotary positions in an encoder of images.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        causal: Let a token attend to itself and to those before it only, as in a text tower.

    Attributes:
        copies_on_cpu: False lets a CPU do as a GPU does, of which the planner measures the memory.
    """

    copies_on_cpu: ClassVar[bool] = True

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # drawn by whoever builds it, or loaded
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)
        self.lora_in_proj: nn.Module | None = None  # see `pe_spatial.backbones.lora`
        self.lora_out_proj: nn.Module | None = None

    def forward(self, x: Tensor, rope: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """Map [..., N, C] to [..., N, C].

        Args:
            x: Tokens.
            rope: The rotary table of the N tokens; None where positions are in the tokens alone.
            mask: bool [B, 1, N, N], True where the token of the row attends to that of the column; None: everywhere.
        """
        q, k, v = self._heads(self.in_proj(x.flatten(0, -3)), rope)
        y = attention(q, k, v, mask, self.causal)
        return _adapted(self.out_proj(y), y, self.lora_out_proj).view_as(x)

    def _heads(self, qkv: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, [B, H, N, D] each, of [B, N, 3C]."""
        heads = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # a view [3, B, H, N, D]
        # attention reads q, k and v again and again: on a CPU dense rows repay the copy
        dense = qkv.device.type == "cpu" and self.copies_on_cpu
        if dense and rope is not None and writes_into(qkv):
            q, k = apply_rotary_densely(heads[:2], rope)
            return q, k, heads[2].contiguous()
        q, k, v = heads.unbind()
        if dense:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return (q, k, v) if rope is None else (apply_rotary(q, rope), apply_rotary(k, rope), v)

    def in_proj(self, x: Tensor) -> Tensor:
        """Queries, keys and values [..., 3C] of tokens [..., C]."""
        return _adapted(linear(x, self.in_proj_weight, self.in_proj_bias), x, self.lora_in_proj)


class MLP(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, hidden)
        self.c_proj = Linear(hidden, width)
        self.lora_c_fc: nn.Module | None = None  # see `pe_spatial.backbones.lora`
        self.lora_c_proj: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to [..., C]."""
        x = F.gelu(_adapted(self.c_fc(x), x, self.lora_c_fc))
        return _adapted(self.c_proj(x), x, self.lora_c_proj)


def _adapted(y: Tensor, x: Tensor, adapter: nn.Module | None) -> Tensor:
    """The output y of a matrix for its input x, and what an adapter adds to it."""
    return y if adapter is None else y + adapter(x)


class LayerScale(nn.Module):
    """The learned factor per channel of a residual branch."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        config: The encoder, or the text tower.
        drop_path: Probability that a residual branch is skipped in training.
        causal: See `Attention`.
    """

    def __init__(self, config: EncoderConfig | TextConfig, drop_path: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.heads, causal)
        self.ls_1 = self.ls_2 = None
        if config.layer_scale is not None:
            self.ls_1 = LayerScale(config.width, config.layer_scale)
            self.ls_2 = LayerScale(config.width, config.layer_scale)
        self.ln_1 = nn.LayerNorm(config.width)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_dim)
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(
        self, x: Tensor, rope: Tensor | None, valid: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Map tokens to tokens.

        Args:
            x: [B, N, C], or in windows [B, windows, N, C]; the N tokens attend to each other.
            rope: Rotary table of the N tokens, or None; see `Attention`.
            valid: [windows, N, 1], 0 where a token only pads its window; None without padding. Padding takes part in
                attention as a zero after the norm, like in the official detectors.
            mask: Which token attends to which; see `Attention`.
        """
        y = self.ln_1(x)
        if valid is not None:
            y = y * valid
        x = self._add(x, self.attn(y, rope, mask), self.ls_1)
        return self._add(x, self.mlp(self.ln_2(x)), self.ls_2)

    def _add(self, x: Tensor, branch: Tensor, scale: LayerScale | None) -> Tensor:
        branch = self.drop_path(branch)
        return x + branch if scale is None else torch.addcmul(x, branch, scale.gamma)


class AttentionPool(nn.Module):
    """PE-Core's pooling: a learned probe attends to all tokens; no residual comes from the probe."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, C] to [B, C]."""
        x = self.attn(self.probe.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0]
        return (x + self.mlp(self.layernorm(x))).squeeze(1)


class Transformer(nn.Module):
    """Holds the blocks under the official name `transformer.resblocks`."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(blocks)
