"""Depth of images larger than a model should see at once: overlapping tiles, matched in scale and blended."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Place = tuple[int, int]  # top, left
Predict = Callable[[Tensor], Tensor]


class DepthTiling:
    """Runs a model on overlapping tiles and joins them without seams.

    Neighbouring tiles see different context and disagree by a factor. One factor per tile is solved for, in least
    squares over all overlaps, such that the tiles agree; its geometric mean over the tiles is 1, so that metric depth
    keeps its scale and consistent tiles are not changed. The tiles are then blended with weights that fall linearly to
    the border of a tile.

    Args:
        tile: (H, W) of a tile in pixels, multiples of the patch size.
        overlap: Share of a tile, above 0 and up to 0.5, that it has in common with its neighbour at least.
    """

    def __init__(self, tile: Sequence[int], overlap: float = 0.25) -> None:
        if len(tile) != 2 or min(tile) < 1:
            raise ValueError(f"tile {list(tile)} is not (H, W) in pixels")
        if not 0 < overlap <= 0.5:
            raise ValueError(f"overlap {overlap} is not above 0 and at most 0.5 of a tile")
        self.tile = (int(tile[0]), int(tile[1]))
        self.overlap = overlap

    def __call__(self, predict: Predict, images: Tensor) -> Tensor:
        """Depth of a batch.

        Args:
            predict: Images [B, 3, h, w] to positive depth [B, 1, h, w]; h and w are those of a tile, or less where
                the image is smaller.
            images: [B, 3, H, W].

        Returns:
            [B, 1, H, W]; `predict(images)` itself where one tile covers everything.
        """
        size = (images.shape[-2], images.shape[-1])
        height, width = (min(t, s) for t, s in zip(self.tile, size, strict=True))
        places = [(y, x) for y in _starts(size[0], height, self.overlap) for x in _starts(size[1], width, self.overlap)]
        tiles = [predict(images[..., y : y + height, x : x + width]).float() for y, x in places]
        if len(tiles) == 1:
            return tiles[0]
        factors = torch.stack([match_scales([tile[b] for tile in tiles], places) for b in range(len(images))])
        weight = _ramp(height)[:, None] * _ramp(width)  # [h, w]
        total = torch.zeros(len(images), 1, *size, device=images.device)
        weights = torch.zeros(size, device=images.device)
        for number, (tile, (y, x)) in enumerate(zip(tiles, places, strict=True)):
            scaled = tile * factors[:, number, None, None, None].to(tile)
            total[..., y : y + height, x : x + width] += weight.to(tile) * scaled
            weights[y : y + height, x : x + width] += weight.to(tile)
        return total / weights


def match_scales(tiles: Sequence[Tensor], places: Sequence[Place]) -> Tensor:
    """Factors [N] that make overlapping tiles agree, with the product 1.

    Minimises the sum over pairs of n_ij * (f_i + d_ij - f_j)², where f is the logarithm of a factor, d_ij the median of
    ln(tile_i / tile_j) over the overlap and n_ij its number of pixels. Tiles must be joined by overlaps.

    Args:
        tiles: Positive depth, each [1, h, w], all of one size.
        places: Where the upper left corner of each lies.
    """
    count = len(tiles)
    height, width = tiles[0].shape[-2:]
    normal = torch.full((count, count), 1.0 / count, dtype=torch.float64)  # the mean of f is 0
    right = torch.zeros(count, dtype=torch.float64)
    for i in range(count):
        for j in range(i + 1, count):
            dy, dx = places[j][0] - places[i][0], places[j][1] - places[i][1]
            if abs(dy) >= height or abs(dx) >= width:
                continue
            first, second = _shared(tiles[i], dy, dx), _shared(tiles[j], -dy, -dx)
            difference = (first.double().log() - second.double().log()).median().cpu()
            weight = first.numel() / (height * width)
            normal[i, i] += weight
            normal[j, j] += weight
            normal[i, j] -= weight
            normal[j, i] -= weight
            right[i] -= weight * difference
            right[j] += weight * difference
    return torch.linalg.solve(normal, right).exp()


def _shared(tile: Tensor, dy: int, dx: int) -> Tensor:
    """The part of a tile under another one of its size whose corner lies (dy, dx) further."""
    height, width = tile.shape[-2:]
    return tile[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin, evenly spaced from one end to the other."""
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // max(int(tile * (1 - overlap)), 1))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _ramp(length: int) -> Tensor:
    """Weights that fall linearly from the middle to the ends and stay above 0."""
    positions = torch.arange(length, dtype=torch.float32)
    return torch.minimum(positions + 1, length - positions) / length
