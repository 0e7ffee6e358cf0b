"""Points in an image at which masks are compared: much cheaper than all pixels (PointRend, arXiv:1912.08193).

Coordinates are (x, y) in 0…1, from the outer edge of the first pixel to that of the last, so that maps of different
resolutions are read at the same places. N masks, P points.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def read_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values [N, P] of maps [N, h, w] at points [N, P, 2]; a pixel's value stands at its center."""
    grid = 2 * points[:, :, None] - 1  # [N, P, 1, 2]
    return F.grid_sample(maps[:, None], grid.to(maps.dtype), align_corners=False, padding_mode="border")[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int, oversample: float, importance: float) -> Tensor:
    """Points [N, P, 2] that lie mostly where masks are undecided.

    Args:
        logits: [N, h, w].
        count: P.
        oversample: How many times P candidates are sampled uniformly.
        importance: Share of the points that are the candidates with logits closest to 0; the rest is sampled uniformly.
    """
    masks = len(logits)
    candidates = torch.rand(masks, int(count * oversample), 2, device=logits.device)
    chosen = int(count * importance)
    nearest = read_points(logits, candidates).abs().topk(chosen, dim=1, largest=False).indices  # [N, chosen]
    points = candidates.gather(1, nearest[:, :, None].expand(-1, -1, 2))
    return torch.cat([points, torch.rand(masks, count - chosen, 2, device=logits.device)], dim=1)
