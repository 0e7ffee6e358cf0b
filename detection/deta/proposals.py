"""Which tokens of the encoder become queries.

Letters: B images, S tokens, Q queries.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.tokens import TokenGrid
from pe_spatial.detection.nms import survivors

_PER_LEVEL = 1000  # tokens of a level that are considered
_NMS_THRESHOLD = 0.9


def select_top_k(objectness: Tensor, boxes: Tensor, grid: TokenGrid, number: int) -> Tensor:
    """Select the `number` tokens [B, Q] of highest `objectness` [B, S] (Deformable DETR)."""
    return objectness.topk(number, dim=1).indices


def select_per_level(objectness: Tensor, boxes: Tensor, grid: TokenGrid, number: int) -> Tensor:
    """Select the same number of tokens on every level, after non-maximum suppression within it (DETA).

    If a level has too few tokens, the best of the other levels fill up. If suppression leaves fewer than `number`
    tokens, it is not used.

    Args:
        objectness: [B, S] logits.
        boxes: [B, S, 4] cx, cy, w, h relative to the image.
        grid: Geometry of the tokens.
        number: Q.

    Returns:
        [B, Q] tokens of every image.
    """
    corners = to_corners(boxes.float()).clamp(0, 1)
    chosen = [
        _select_in_image(logits.float(), corner, grid, number)
        for logits, corner in zip(objectness, corners, strict=True)
    ]
    return torch.stack(chosen)


def _select_in_image(logits: Tensor, corners: Tensor, grid: TokenGrid, number: int) -> Tensor:
    """Of one image; nothing's size follows values, so that the selection can be part of a graph."""
    best = logits.topk(number).indices
    index, score, level = _candidates(logits, corners, grid)
    if len(score) < number:
        return best
    score, order = score.sort(descending=True)
    index, level, kept = index[order], level[order], ~score.isneginf()
    of_level = level[:, None] == torch.arange(len(grid.shapes), device=level.device)  # [candidates, L]
    place = (of_level & kept[:, None]).cumsum(0).gather(1, level[:, None]).squeeze(1)
    wanted = kept & (place <= number // len(grid.shapes))
    others = kept & ~wanted
    wanted = wanted | (others & (others.cumsum(0) <= number - wanted.sum()))
    # the wanted ones in their order: the first has the highest place from behind
    behind = torch.arange(len(wanted), 0, -1, device=wanted.device) * wanted
    return torch.where(kept.sum() >= number, index[behind.topk(number).indices], best)


def _candidates(logits: Tensor, corners: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor, Tensor]:
    """The best tokens of every level: their numbers, logits (-inf for what is suppressed) and levels, each [L * n]."""
    index, scores, levels = [], [], []
    first = 0
    for level, (rows, columns) in enumerate(grid.shapes):
        own = F.pad(logits[first : first + rows * columns], (0, _PER_LEVEL), value=-torch.inf)  # it may have fewer
        score, best = own.topk(_PER_LEVEL)
        best = first + best.clamp(max=rows * columns - 1)
        keep = survivors(corners[best], score, _NMS_THRESHOLD)
        index.append(best)
        scores.append(score.masked_fill(~keep, -torch.inf))
        levels.append(torch.full_like(best, level))
        first += rows * columns
    return torch.cat(index), torch.cat(scores), torch.cat(levels)
