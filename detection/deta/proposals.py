"""Which tokens of the encoder become queries.

Letters: B images, S tokens, Q queries.
"""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.tokens import TokenGrid

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
    candidates = []
    first = 0
    for rows, columns in grid.shapes:
        level = logits[first : first + rows * columns]
        candidates.append(first + level.topk(min(_PER_LEVEL, len(level))).indices)
        first += rows * columns
    index = torch.cat(candidates)
    kept = index[batched_nms(corners[index], logits[index], grid.levels[index], _NMS_THRESHOLD)]  # best first
    if len(kept) < number:
        kept = logits.topk(number).indices
    share = number // len(grid.shapes)
    of_level = grid.levels[kept][:, None] == torch.arange(len(grid.shapes), device=kept.device)  # [kept, L]
    wanted = (of_level & (of_level.cumsum(0) <= share)).any(dim=1)
    missing = number - wanted.sum()
    wanted |= ~wanted & ((~wanted).cumsum(0) <= missing)
    return kept[wanted]
