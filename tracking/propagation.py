"""Label propagation between frames by feature similarity: pure functions, no model and no state.

A token of a new frame takes the labels of the k most similar tokens of the context frames, weighted by a softmax over
their similarities; only tokens in the neighborhood of its own place are candidates (Jabri et al., 2020,
arXiv:2006.14613; the protocol of DINO, Caron et al., 2021, arXiv:2104.14294).

Queries are processed in square tiles. A tile meets the keys of its joint neighborhood in one batched product; what
lies outside the neighborhood of a single query is cut off at once. The affinity of a tile is all that ever exists of
the affinity: with tiles of 8 and radius 12, over 8 context frames, 64 x 32 x 32 x 8 numbers, 2 MiB in float32, whatever
the size of the frame and the length of the video.

Letters: h, w rows and columns of tokens; S context frames; C channels; M labels; G sets of context frames; k matches.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.common.windows import Region, tiles


@dataclass(frozen=True)
class Propagation:
    """How labels travel; the defaults are those of DINO's script.

    Args:
        radius: Tokens further away than this, in tokens, are no candidates; None lets every token be one.
        shape: `square` measures the distance along the longer axis, `circle` the straight one.
        topk: How many candidates, over all context frames together, give their label.
        temperature: Of the softmax over their cosine similarities.

    Raises:
        OptionError: a value outside its range.
    """

    radius: float | None = 12
    shape: str = "square"
    topk: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.radius is not None and self.radius < 0:
            raise OptionError(f"radius {self.radius} is negative; use None to search the whole frame")
        require_choice("shape", self.shape, ("square", "circle"))
        if self.topk < 1:
            raise OptionError(f"topk {self.topk} is below 1; it must be at least 1")
        if self.temperature <= 0:
            raise OptionError(f"temperature {self.temperature} must be above 0; DINO uses 0.1, DINOv3 0.2")


def propagate(query: Tensor, keys: Tensor, labels: Tensor, propagation: Propagation | None = None) -> Tensor:
    """Return the labels of a frame from those of its context.

    Args:
        query: [h, w, C] unit vectors; see `unit`.
        keys: [h, w, S, C] unit vectors of the context frames.
        labels: [h, w, S, M], one-hot or soft.
        propagation: DINO's defaults where None.

    Returns:
        [h, w, M] in the type of `labels`; sums over M are kept.
    """
    propagation = propagation or Propagation()
    similarity, index = match(query, keys, propagation)
    return blend(similarity[0], index[0], labels, propagation.temperature)


def unit(features: Tensor) -> Tensor:
    """Scale feature vectors [..., C] to length 1 (computed in float32, returned in their own type)."""
    return F.normalize(features.float(), dim=-1).to(features.dtype)


@torch.no_grad()
def match(
    query: Tensor, keys: Tensor, propagation: Propagation, *, valid: Tensor | None = None, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the most similar tokens of the context for every token of a frame.

    Where similarities are equal, any of them is taken (DINO's script takes all of a tie for the last place).

    Args:
        query: [h, w, C] unit vectors.
        keys: [h, w, S, C] unit vectors of the same type; copied nowhere if contiguous.
        propagation: Neighborhood and number of matches.
        valid: bool [G, S]; each row is a set of context frames to look in. None means one set with all.
        tile: Side of a tile of queries; None takes 8 on a CPU (about what its cache holds) and 32 elsewhere.

    Returns:
        similarity [G, h, w, k] float32, in no particular order, -inf where there are fewer than k candidates; and
        index [G, h, w, k] int64 of the match in the flattened (h, w, S).

    Raises:
        OptionError: The grids differ.
    """
    h, w, slots, _ = keys.shape
    if query.shape[:2] != (h, w):
        raise OptionError(
            f"a frame of {tuple(query.shape[:2])} tokens cannot be matched with a context of {(h, w)}; frames of one "
            "video must have one size"
        )
    tile = min(tile or (8 if query.device.type == "cpu" else 32), max(h, w))
    outside = _outside(propagation, tile, query)
    excluded = None if valid is None else query.new_zeros(valid.shape).masked_fill_(~valid, -math.inf)  # [G, S]
    groups = 1 if excluded is None else len(excluded)
    similarity = query.new_full((groups, h, w, propagation.topk), -math.inf, dtype=torch.float32)
    index = torch.zeros(groups, h, w, propagation.topk, dtype=torch.int64, device=query.device)
    buffer = query.new_empty(0)
    reach = max(h, w) if propagation.radius is None else int(propagation.radius)
    for (rows, columns), (key_rows, key_columns) in tiles(h, w, tile, reach):
        queries = query[rows, columns].flatten(0, 1).T.contiguous()  # [C, q]
        region = keys[key_rows, key_columns].flatten(1, 2)  # [y, x * S, C], a view
        shape = (*region.shape[:2], queries.shape[1])
        if buffer.numel() < math.prod(shape):
            buffer = query.new_empty(math.prod(shape))
        affinity = buffer[: math.prod(shape)].view(shape)  # [y, x * S, q]
        torch.bmm(region, queries.expand(len(region), -1, -1), out=affinity)
        if outside is not None:
            cut = _cut(outside, tile, (rows, columns), (key_rows, key_columns))  # [y, x, q]
            affinity.unflatten(1, (-1, slots)).add_(cut[:, :, None])
        values, y, x_slot = _largest(affinity, slots, excluded, propagation.topk)  # [G, q, k]
        x, slot = key_columns.start + x_slot // slots, x_slot % slots
        place = ((y + key_rows.start) * w + x) * slots + slot
        target = (slice(None), rows, columns, slice(0, values.shape[-1]))
        similarity[target] = values.float().view_as(similarity[target])
        index[target] = place.view_as(index[target])
    return similarity, index


def blend(similarity: Tensor, index: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mix the labels of matches.

    Args:
        similarity: [..., k] from `match`, with at least one finite number in each row.
        index: [..., k], rows of the flattened `labels`.
        labels: [h, w, S, M].
        temperature: Of the softmax.

    Returns:
        [..., M] in the type of `labels`.
    """
    weights = torch.softmax(similarity / temperature, dim=-1).to(labels.dtype)  # [..., k]
    chosen = labels.flatten(0, 2)[index]  # [..., k, M]
    return (weights[..., None] * chosen).sum(dim=-2)


def _outside(propagation: Propagation, tile: int, query: Tensor) -> Tensor | None:
    """What to add to an affinity: -inf outside the neighborhood of a query, 0 inside; None if all is inside.

    Returns:
        [y, x, tile, tile] with y, x = 0 at the upper left key that any query of the tile can reach.
    """
    if propagation.radius is None:
        return None
    reach = min(int(propagation.radius), max(query.shape[:2]) - 1)
    places = torch.arange(tile, device=query.device)
    keys = torch.arange(-reach, tile + reach, device=query.device)
    distance = (keys[:, None] - places).abs()  # [y, tile]
    dy, dx = distance[:, None, :, None], distance[None, :, None, :]
    if propagation.shape == "square":
        inside = torch.maximum(dy, dx) <= propagation.radius
    else:
        inside = dy**2 + dx**2 <= propagation.radius**2
    return query.new_zeros(inside.shape).masked_fill_(~inside, -math.inf)


def _cut(outside: Tensor, tile: int, queries: Region, keys: Region) -> Tensor:
    """The part of `outside` for a tile at its place in the frame: [y, x, q]."""
    (rows, columns), (key_rows, key_columns) = queries, keys
    reach = (outside.shape[0] - tile) // 2
    top, left = key_rows.start - rows.start + reach, key_columns.start - columns.start + reach
    part = outside[top : top + key_rows.stop - key_rows.start, left : left + key_columns.stop - key_columns.start]
    return part[:, :, : rows.stop - rows.start, : columns.stop - columns.start].flatten(2)


def _largest(affinity: Tensor, slots: int, excluded: Tensor | None, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the k largest affinities of every query, in two steps.

    The k largest lie in the k columns with the largest maxima, so a pass for the maxima and two small selections
    replace a selection among all.

    Args:
        affinity: [y, x * S, q].
        slots: S.
        excluded: [G, S], 0 or -inf; None means one set with all.
        k: How many.

    Returns:
        Values, y and x * S, each [G, q, k]; k is smaller where there are fewer keys.
    """
    best = affinity.amax(dim=0)[None]  # [1, x * S, q]
    if excluded is not None:
        best = (best.unflatten(1, (-1, slots)) + excluded[:, None, :, None]).flatten(1, 2)  # [G, x * S, q]
    best = best.transpose(1, 2).contiguous()  # [G, q, x * S]
    top = best.topk(min(k, best.shape[-1]), dim=-1, sorted=False)
    columns = top.indices  # [G, q, k]
    groups, queries, width = columns.shape
    picks = columns.permute(2, 0, 1).reshape(1, -1, queries)  # [1, k * G, q]
    candidates = affinity.gather(1, picks.expand(len(affinity), -1, -1))  # [y, k * G, q]
    candidates = candidates.unflatten(1, (width, groups)).permute(2, 3, 0, 1)  # [G, q, y, k]
    if excluded is not None:
        candidates = candidates + torch.where(top.values == -math.inf, -math.inf, 0.0)[:, :, None].to(candidates.dtype)
    candidates = candidates.flatten(2)
    values, flat = candidates.topk(min(k, candidates.shape[-1]), dim=-1, sorted=False)  # [G, q, k]
    return values, flat // width, columns.gather(-1, flat % width)
