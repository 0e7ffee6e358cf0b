"""Anchor boxes: one size per pyramid level, three shapes per cell, as Detectron2 lays them out.

Anchors are centered on the top-left corner of their cell (offset 0) and are not rounded to whole pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(size: float, aspect_ratios: Sequence[float]) -> Tensor:
    """Boxes of area `size**2` around the origin, one per aspect ratio (height over width); [A, 4] xyxy."""
    ratios = torch.tensor(aspect_ratios, dtype=torch.float64)
    width = size / ratios.sqrt()
    height = ratios * width
    return (torch.stack([-width, -height, width, height], dim=1) / 2).float()  # [A, 4]


def grid_anchors(
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    sizes: Sequence[float],
    aspect_ratios: Sequence[float],
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Anchors of every level, in image pixels.

    Args:
        map_sizes: (H, W) of the map of each level.
        strides: Pixels between two cells of each level; fractions are allowed (patch 14 has a level of stride 3.5).
        sizes: Square root of the anchors' area on each level, pixels.
        aspect_ratios: Height over width.
        device: Where the anchors are wanted.

    Returns:
        Per level [H * W * A, 4] xyxy, rows first, the shapes of a cell next to each other.
    """
    levels = []
    for (height, width), stride, size in zip(map_sizes, strides, sizes, strict=True):
        y = torch.arange(height, device=device, dtype=torch.float32) * stride
        x = torch.arange(width, device=device, dtype=torch.float32) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        corner = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)  # [H * W, 1, 4]
        levels.append((corner + cell_anchors(size, aspect_ratios).to(device)).reshape(-1, 4))  # [H * W * A, 4]
    return levels
