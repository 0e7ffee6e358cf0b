"""The layers of a deformable transformer. Post-norm; parameter names are those of the official checkpoints.

Letters: B images, S tokens of all levels, Q queries, C channels, L levels.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from pe_spatial.common.linear import Linear
from pe_spatial.detection.deta.deformable import DeformableAttention
from pe_spatial.detection.deta.tokens import TokenGrid


@dataclass(frozen=True)
class LayerOptions:
    """What the layers of encoder and decoder share.

    Args:
        channels: Of tokens and queries.
        levels: Of the pyramid.
        heads: Of every attention.
        points: Of a head on a level.
        ffn_channels: Hidden channels of the feed-forward part.
        dropout: After every part and inside of the feed-forward part.
        chunk: See `pe_spatial.detection.deta.deformable.deformable_attention`.
    """

    channels: int
    levels: int
    heads: int = 8
    points: int = 4
    ffn_channels: int = 2048
    dropout: float = 0.0
    chunk: int | None = None

    def attention(self) -> DeformableAttention:
        """A deformable attention."""
        return DeformableAttention(self.channels, self.levels, self.heads, self.points, self.chunk)


class _Layer(nn.Module):
    """The feed-forward part, and dropout."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self.linear1 = Linear(options.channels, options.ffn_channels)
        self.linear2 = Linear(options.ffn_channels, options.channels)
        self.dropout = nn.Dropout(options.dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class EncoderLayer(_Layer):
    """Deformable self-attention of the tokens over all levels."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.self_attn = options.attention()
        self.norm1 = nn.LayerNorm(options.channels)
        self.norm2 = nn.LayerNorm(options.channels)

    def forward(self, tokens: Tensor, positions: Tensor, references: Tensor, grid: TokenGrid) -> Tensor:
        """Map tokens [B, S, C] to tokens; `references` [B, S, L, 2] are their places on every level."""
        found = self.self_attn(tokens + positions, references, tokens, grid.shapes, grid.padding)
        tokens = self.norm1(tokens + self.dropout(found))
        return self.norm2(self.feed_forward(tokens))


class DecoderLayer(_Layer):
    """Self-attention of the queries, then deformable attention to the tokens."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options)
        self.self_attn = nn.MultiheadAttention(
            options.channels, options.heads, dropout=options.dropout, batch_first=True
        )
        self.cross_attn = options.attention()
        self.norm1 = nn.LayerNorm(options.channels)
        self.norm2 = nn.LayerNorm(options.channels)
        self.norm3 = nn.LayerNorm(options.channels)

    def forward(
        self, queries: Tensor, positions: Tensor, references: Tensor, tokens: Tensor, grid: TokenGrid
    ) -> Tensor:
        """Map queries [B, Q, C] to queries; `references` [B, Q, L, 2 or 4] are their places on every level."""
        keys = queries + positions
        found = self.self_attn(keys, keys, queries, need_weights=False)[0]
        queries = self.norm2(queries + self.dropout(found))
        found = self.cross_attn(queries + positions, references, tokens, grid.shapes, grid.padding)
        queries = self.norm1(queries + self.dropout(found))
        return self.norm3(self.feed_forward(queries))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels, *[hidden] * (depth - 1), out_channels]
        self.layers = nn.ModuleList(Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in_channels] to [..., out_channels]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
