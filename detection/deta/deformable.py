"""Multi-scale deformable attention (Zhu et al., 2021, arXiv:2010.04159) in plain PyTorch.

Letters: B images, Q queries, S tokens of all levels, H heads, D channels of a head, L levels, P points of a head on a
level, C = H x D channels.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pe_spatial.common.errors import OptionError
from pe_spatial.common.linear import Linear
from pe_spatial.detection.deta.tokens import sizes_of_levels

Shapes = Sequence[tuple[int, int]]


def deformable_attention(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, chunk: int | None = None
) -> Tensor:
    """Weighted sums of bilinear samples: what the CUDA operator of Deformable DETR computes.

    A sample is a weighted sum of four tokens, so a query of a head is one sum over 4 x L x P rows of a table of
    tokens: `embedding_bag` computes it without ever holding the samples. Outside of a level everything is zero.

    Args:
        value: [B, S, H, D], the levels one after the other, each row by row.
        shapes: (rows, columns) of the L levels.
        locations: [B, Q, H, L, P, 2], x and y from 0 (left, top) to 1 (right, bottom) of a level.
        weights: [B, Q, H, L, P].
        chunk: Queries worked on at once; their intermediate values are then computed again in the backward pass
            instead of being kept. None takes all of them, and keeps.

    Returns:
        [B, Q, C] of the type of `value`.
    """
    if torch.compiler.is_exporting():
        return _sum_grid_samples(value, shapes, locations, weights)
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
    rows, columns, first = _per_sample(shapes, weights.shape[-1], locations)  # each [L * P]
    x, y = (axis.flatten(-2) for axis in locations.unbind(-1))  # each [B, Q, H, L * P]
    (left, share_left), (right, share_right) = _neighbors(x, columns)
    (above, share_above), (below, share_below) = _neighbors(y, rows)
    # the table holds the heads of a token one after the other
    image = torch.arange(images, device=value.device, dtype=torch.int32) * tokens
    head = torch.arange(heads, device=value.device, dtype=torch.int32)
    origin = (image[:, None, None, None] + first) * heads + head[:, None]  # [B, 1, H, L * P]
    step = columns.int() * heads
    upper, lower = above * step + origin, below * step + origin
    left, right = left * heads, right * heads
    share_above, share_below = share_above * weights.flatten(-2), share_below * weights.flatten(-2)
    index = torch.cat((upper + left, upper + right, lower + left, lower + right), dim=-1)  # [B, Q, H, 4 * L * P]
    share = torch.cat(
        (share_above * share_left, share_above * share_right, share_below * share_left, share_below * share_right), -1
    )
    summed = F.embedding_bag(
        index.flatten(0, 2),
        value.reshape(-1, channels),  # [B * S * H, D]
        per_sample_weights=share.flatten(0, 2).to(value.dtype),
        mode="sum",
    )
    return summed.view(images, -1, heads * channels)


def _sum_grid_samples(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same by one `grid_sample` for each level, which engines have, and which holds the samples of a level."""
    images, _, heads, channels = value.shape
    queries = locations.shape[1]
    value = value.permute(0, 2, 3, 1).flatten(0, 1)  # [B * H, D, S]
    places = locations.transpose(1, 2).flatten(0, 1) * 2 - 1  # [B * H, Q, L, P, 2]
    shares = weights.transpose(1, 2).flatten(0, 1).to(value.dtype)  # [B * H, Q, L, P]
    summed: Tensor | None = None
    first = 0
    for level, (rows, columns) in enumerate(shapes):
        table = value[:, :, first : first + rows * columns].unflatten(2, (rows, columns))
        samples = F.grid_sample(table, places[:, :, level].to(value.dtype), align_corners=False)  # [B * H, D, Q, P]
        part = (samples * shares[:, None, :, level]).sum(-1)
        summed = part if summed is None else summed + part
        first += rows * columns
    assert summed is not None, "a pyramid has levels"
    return summed.reshape(images, heads * channels, queries).transpose(1, 2)


def _neighbors(place: Tensor, cells: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The cells before and behind a place on an axis, each as number (int32) and share.

    Args:
        place: [..., N] from 0 to 1.
        cells: [N] of the axis. Outside, the share is 0 and the number is that of some cell.
    """
    # beyond one cell outside everything is zero too, and the numbers stay small
    place = torch.minimum((place * cells - 0.5).clamp(min=-1), cells)
    before = place.detach().floor()
    fraction = place - before
    last = cells - 1
    share_before = torch.where((before >= 0) & (before <= last), 1 - fraction, 0.0)
    share_behind = torch.where(before < last, fraction, 0.0)
    number = torch.minimum(before.clamp(min=0), last).int()
    return (number, share_before), (torch.minimum(before + 1, last).int(), share_behind)


def _per_sample(shapes: Shapes, points: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and number of the first token of the level of every sample, each [L * P]; the number int32."""
    sizes = sizes_of_levels(shapes, like).repeat_interleave(points, dim=0)  # [L * P, 2]
    counts = accumulate((rows * columns for rows, columns in shapes[:-1]), initial=0)
    first = torch.stack([like.new_full((), count, dtype=torch.int32) for count in counts]).repeat_interleave(points)
    return sizes[:, 0], sizes[:, 1], first


class DeformableAttention(nn.Module):
    """Attention of queries to a few places on every level, relative to a point or a box of the query.

    Parameter names are those of the official checkpoints.

    Args:
        channels: C.
        levels: L.
        heads: H.
        points: P.
        chunk: See `deformable_attention`.

    Raises:
        OptionError: The heads do not divide the channels.
    """

    def __init__(self, channels: int, levels: int, heads: int, points: int, chunk: int | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise OptionError(f"{channels} channels do not divide among {heads} heads; change either")
        self.split = (heads, levels, points)
        self.chunk = chunk
        self.sampling_offsets = Linear(channels, heads * levels * points * 2)
        self.attention_weights = Linear(channels, heads * levels * points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Point every head in a direction of its own, point p at a distance of p cells, with equal weights."""
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
            queries: With their positions added.
            references: [B, Q, L, 2], points, or [B, Q, L, 4], boxes (center and size), relative to each level,
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
        weights = weights.softmax(dim=-1, dtype=torch.promote_types(weights.dtype, torch.float32)).unflatten(
            -1, (levels, points)
        )
        # where to look is computed in fp32 under autocast too: bf16 tells 256 places apart on a level
        offsets = offsets.to(references.dtype)
        centers = references[:, :, None, :, None, :2]  # [B, Q, 1, L, 1, 2]
        if references.shape[-1] == 4:
            locations = centers + offsets * references[:, :, None, :, None, 2:] * (0.5 / points)
        else:
            locations = centers + offsets / sizes_of_levels(shapes, offsets).flip(1)[:, None]
        y = deformable_attention(value.unflatten(-1, (heads, -1)), shapes, locations, weights, self.chunk)
        return self.output_proj(y)
