"""Depth of images larger than a model should see at once: overlapping tiles, matched in scale and blended."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.common.windows import blend, even_starts, regions, strided_starts

Place = tuple[int, int]  # top, left
Predict = Callable[[Tensor], Tensor]


class DepthTiling:
    """Runs a model on overlapping tiles and joins them without seams.

    Tiles see different context and disagree by a factor; and a part of a picture looks nearer than it is. One factor
    per tile is solved for, in least squares, such that overlapping tiles agree and that each agrees with the whole
    picture, reduced to the size of a tile: without it, the errors of neighbors would add up over the picture. The
    tiles are then blended with weights that fall linearly to the border of a tile, which hides what still differs.

    Args:
        tile: (H, W) of a tile in pixels, multiples of the patch size.
        overlap: Share of a tile, above 0 and up to 0.5, that it has in common with its neighbor at least.
        stride: (H, W) in pixels from one tile to the next, instead of `overlap`; the last one ends with the picture.
            These are the windows of segmenters, so that both see the same tiles.
    """

    def __init__(self, tile: Sequence[int], overlap: float = 0.25, stride: Sequence[int] | None = None) -> None:
        if len(tile) != 2 or min(tile) < 1:
            raise OptionError(f"tile {list(tile)} is not (H, W) in pixels")
        if not 0 < overlap <= 0.5:
            raise OptionError(f"overlap {overlap} must be above 0 and at most 0.5 of a tile")
        if stride is not None and (len(stride) != 2 or any(not 1 <= s < t for s, t in zip(stride, tile, strict=False))):
            raise OptionError(f"stride {list(stride)} is not (H, W) in pixels, each below the tile {list(tile)}")
        self.tile = (int(tile[0]), int(tile[1]))
        self.overlap = overlap
        self.stride = None if stride is None else (int(stride[0]), int(stride[1]))

    def __call__(self, predict: Predict, images: Tensor, multiple: int = 1) -> Tensor:
        """Depth of a batch.

        Args:
            predict: Images [B, 3, h, w] to positive depth [B, 1, h, w]; h and w are at most those of a tile.
            images: [B, 3, H, W].
            multiple: H, W, h and w are multiples of it.

        Returns:
            [B, 1, H, W]; `predict(images)` itself where one tile covers everything.
        """
        size = (images.shape[-2], images.shape[-1])
        if size[0] <= self.tile[0] and size[1] <= self.tile[1]:
            return predict(images)
        height, width = (min(t, s) for t, s in zip(self.tile, size, strict=True))
        rows, columns = self._starts(size, (height, width))
        places = [(y, x) for y in rows for x in columns]
        covered = regions(rows, columns, (height, width))
        tiles = [predict(images[(..., *region)]).float() for region in covered]
        whole = self._whole(predict, images, multiple)
        factors = torch.stack(
            [match_scales([tile[b] for tile in tiles], places, whole[b]) for b in range(len(images))], dim=1
        )  # [N, B]
        weight = (_ramp(height)[:, None] * _ramp(width)).to(images.device)  # [h, w]
        weighted = (
            weight * tile * factor[:, None, None, None].to(tile) for tile, factor in zip(tiles, factors, strict=True)
        )
        return blend(zip(covered, weighted, strict=True), weight, size)

    def _starts(self, size: Place, tile: Place) -> tuple[list[int], list[int]]:
        """First rows and first columns of the tiles (h, w) of a picture (H, W)."""
        if self.stride is not None:
            return strided_starts(size[0], tile[0], self.stride[0]), strided_starts(size[1], tile[1], self.stride[1])
        return even_starts(size[0], tile[0], self.overlap), even_starts(size[1], tile[1], self.overlap)

    def _whole(self, predict: Predict, images: Tensor, multiple: int) -> Tensor:
        """The depth of the reduced pictures, enlarged again, [B, 1, H, W]."""
        size = images.shape[-2:]
        scale = min(t / s for t, s in zip(self.tile, size, strict=True))
        reduced = [max(int(side * scale) // multiple, 1) * multiple for side in size]
        small = F.interpolate(images, size=reduced, mode="bilinear", align_corners=False, antialias=True)
        return F.interpolate(predict(small).float(), size=size, mode="bilinear", align_corners=False)


def match_scales(tiles: Sequence[Tensor], places: Sequence[Place], whole: Tensor) -> Tensor:
    """Factors [N] that make overlapping tiles agree with each other and with the whole picture.

    With f the logarithm of a factor, d_ij the median of ln(tile_i / tile_j) over the overlap of two tiles, n_ij its
    share of a tile, and g_i the median of ln(tile_i / whole), this minimizes
    sum_ij n_ij (f_i - f_j + d_ij)² + sum_i (f_i + g_i)²: the whole picture counts as much as a neighbor that covers
    all of a tile.

    Args:
        tiles: Positive depth, each [1, h, w], all of one size.
        places: Where the upper left corner of each lies in the whole.
        whole: Positive depth [1, H, W].
    """
    height, width = tiles[0].shape[-2:]
    logs = [tile.double().log() for tile in tiles]
    normal = torch.eye(len(tiles), dtype=torch.float64)
    right = torch.zeros(len(tiles), dtype=torch.float64)
    for i, (y, x) in enumerate(places):
        right[i] -= (logs[i] - whole[..., y : y + height, x : x + width].double().log()).median().cpu()
        for j in range(i + 1, len(tiles)):
            dy, dx = places[j][0] - y, places[j][1] - x
            if abs(dy) >= height or abs(dx) >= width:
                continue
            difference = _shared(logs[i], dy, dx) - _shared(logs[j], -dy, -dx)
            weight = difference.numel() / (height * width)
            pull = weight * difference.median().cpu()
            normal[[i, j], [i, j]] += weight
            normal[[i, j], [j, i]] -= weight
            right[i] -= pull
            right[j] += pull
    return torch.linalg.solve(normal, right).exp()


def _shared(tile: Tensor, dy: int, dx: int) -> Tensor:
    """The part of a tile under another one of its size whose corner lies (dy, dx) further."""
    height, width = tile.shape[-2:]
    return tile[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]


def _ramp(length: int) -> Tensor:
    """Weights that fall linearly from the middle to the ends and stay above 0."""
    positions = torch.arange(length, dtype=torch.float32)
    return torch.minimum(positions + 1, length - positions) / length
