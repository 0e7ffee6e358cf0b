"""Multi-scale deformable attention (Zhu et al., 2021, arXiv:2010.04159) in plain PyTorch.

Letters: B images, Q queries, S tokens of all levels, H heads, D channels of a head, L levels, P points of a head on a
level, C = H x D channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Shapes = Sequence[tuple[int, int]]


def deformable_attention(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, chunk: int | None = None
) -> Tensor:
    """Weighted sums of bilinear samples: what the CUDA operator of Deformable DETR computes.

    A sample is a weighted sum of four tokens, so a query of a head is one sum over 4 x L x P rows of a table of
    tokens: ``embedding_bag`` computes it without ever holding the samples. Outside of a level everything is zero.

    Args:
        value: [B, S, H, D], the levels one after the other, each row by row.
        shapes: (rows, columns) of the L levels.
        locations: [B, Q, H, L, P, 2], x and y from 0 (left, top) to 1 (right, bottom) of a level.
        weights: [B, Q, H, L, P].
        chunk: queries worked on at once; their intermediate values are then computed again in the backward pass
            instead of being kept. None takes all of them, and keeps.

    Returns:
        [B, Q, C] of the type of ``value``.
    """
    if chunk is None or locations.shape[1] <= chunk:
        return _sum_samples(value, shapes, locations, weights)
    parts = []
    for some_locations, some_weights in zip(locations.split(chunk, 1), weights.split(chunk, 1), strict=True):
        arguments = (value, shapes, some_locations, some_weights)
        if torch.is_grad_enabled():
            parts.append(checkpoint(_sum_samples, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_sum_samples(*arguments))
    return torch.cat(parts, dim=1)


def _sum_samples(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    images, tokens, heads, channels = value.shape
    device = value.device
    size = torch.tensor(shapes, device=device).flip(1)[:, None]  # [L, 1, 2]: columns, rows
    # a place outside by a cell or more contributes nothing, wherever it is
    place = (locations * size - 0.5).clamp(min=size.new_tensor(-1), max=size)  # [B, Q, H, L, P, 2], in cells
    corner = place.detach().floor()
    fraction = place - corner
    cells = corner.int()[..., None] + torch.arange(2, device=device, dtype=torch.int32)  # [B, Q, H, L, P, 2, 2]
    share = torch.stack((1 - fraction, fraction), dim=-1) * ((cells >= 0) & (cells < size[..., None]))
    cells = torch.minimum(cells.clamp(min=0), size[..., None].int() - 1)
    (x, y), (share_x, share_y) = cells.unbind(-2), share.unbind(-2)  # each [B, Q, H, L, P, 2]
    rows = y[..., :, None] * size[..., :1, None].int() + x[..., None, :]  # [B, Q, H, L, P, 2, 2]
    rows = (rows + _first_rows(shapes, device)) * heads + torch.arange(heads, device=device, dtype=torch.int32).view(
        -1, 1, 1, 1, 1
    )
    rows = rows + torch.arange(images, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1, 1) * (tokens * heads)
    share = share_y[..., :, None] * share_x[..., None, :] * weights[..., None, None]
    summed = F.embedding_bag(
        rows.flatten(3).flatten(0, 2),  # [B * Q * H, L * P * 4]
        value.reshape(-1, channels),  # [B * S * H, D]
        per_sample_weights=share.flatten(3).flatten(0, 2).to(value.dtype),
        mode="sum",
    )
    return summed.view(images, -1, heads * channels)


def _first_rows(shapes: Shapes, device: torch.device) -> Tensor:
    """Number of the first token of every level, [L, 1, 1, 1]."""
    counts = torch.tensor([0, *(rows * columns for rows, columns in shapes[:-1])], device=device)
    return counts.cumsum(0).int().view(-1, 1, 1, 1)


class DeformableAttention(nn.Module):
    """Attention of queries to a few places on every level, relative to a point or a box of the query.

    Parameter names are those of the official checkpoints.

    Args:
        channels: C.
        levels: L.
        heads: H.
        points: P.
        chunk: see :func:`deformable_attention`.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int, chunk: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide among {heads} heads; change either")
        self.split = (heads, levels, points)
        self.chunk = chunk
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every head looks into a direction of its own, point p at a distance of p cells, with equal weights."""
        heads, levels, points = self.split
        angles = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)  # onto the unit square
        distances = torch.arange(1, points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]  # [H, 1, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, levels, -1, -1).flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, queries: Tensor, references: Tensor, memory: Tensor, shapes: Shapes, padding: Tensor | None = None
    ) -> Tensor:
        """Map queries [B, Q, C] to [B, Q, C].

        Args:
            queries: with their positions added.
            references: [B, Q, L, 2], points, or [B, Q, L, 4], boxes (centre and size), relative to each level,
                padding included. Offsets are in cells for points, in 1/(2P) of the size for boxes.
            memory: [B, S, C].
            shapes: (rows, columns) of the levels.
            padding: [B, S], True where a token shows no image; it counts as zero.
        """
        heads, levels, points = self.split
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        offsets = self.sampling_offsets(queries).unflatten(-1, (heads, levels, points, 2))
        weights = self.attention_weights(queries).unflatten(-1, (heads, levels * points))
        weights = weights.softmax(dim=-1, dtype=_at_least_float32(weights)).unflatten(-1, (levels, points))
        # where to look is computed in fp32 under autocast too: bf16 tells 256 places apart on a level
        offsets = offsets.to(references.dtype)
        centres = references[:, :, None, :, None, :2]  # [B, Q, 1, L, 1, 2]
        if references.shape[-1] == 4:
            locations = centres + offsets * references[:, :, None, :, None, 2:] * (0.5 / points)
        else:
            locations = centres + offsets / offsets.new_tensor(shapes).flip(1)[:, None]
        y = deformable_attention(value.unflatten(-1, (heads, -1)), shapes, locations, weights, self.chunk)
        return self.output_proj(y)


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
