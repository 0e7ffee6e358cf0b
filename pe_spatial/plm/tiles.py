"""How PLM sees a picture: a thumbnail and tiles, as `core/transforms/image_transform.py` of Meta's `perception_models`.

Thumbnail and canvas are squashed: the aspect ratio of the picture is not kept.
"""

import math
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pe_spatial.common.errors import OptionError, require_choice, require_positive

MODES = ("thumb+tile", "vanilla")
MAX_TILES = 36  # of the released models, besides the thumbnail


def find_grid(height: int, width: int, tile: int, max_tiles: int = MAX_TILES) -> tuple[tuple[int, int], bool]:
    """How many tiles a picture is cut into.

    Of the canvases that hold the picture without shrinking it, the one in which it can be shown largest; among equals
    the last one in the official order. So small pictures are enlarged. Where no canvas holds it, the one with the
    nearest aspect ratio that is not more extreme.

    Args:
        height: Of the picture in pixels.
        width: Likewise.
        tile: Side of a tile in pixels.
        max_tiles: Without the thumbnail.

    Returns:
        (rows, columns), and whether the picture fits without shrinking.

    Raises:
        OptionError: A number below 1.
    """
    require_positive(height=height, width=width, tile=tile, max_tiles=max_tiles)
    best: tuple[int, int] | None = None
    largest = -1.0
    for columns, rows in _arrangements(max_tiles):
        if columns * tile >= width and rows * tile >= height:
            side = _shorter_side(height, width, rows * tile, columns * tile)
            if side >= largest:
                best, largest = (rows, columns), side
    return (best, True) if best else (_nearest(height, width, max_tiles), False)


@cache
def _arrangements(max_tiles: int) -> list[tuple[int, int]]:
    """All (columns, rows) of at most so many tiles: by ratio, in the order in which their numbers first have it."""
    by_ratio: dict[float, list[tuple[int, int]]] = {}
    for count in range(max_tiles, 0, -1):
        for columns in range(1, count + 1):
            if count % columns == 0:
                rows = count // columns
                by_ratio.setdefault(columns / rows, []).append((columns, rows))
    return [grid for grids in by_ratio.values() for grid in grids]


def _shorter_side(height: int, width: int, canvas_height: int, canvas_width: int) -> float:
    """Of the picture in a canvas, its aspect ratio kept; in whole pixels unless it is square (as upstream's ties)."""
    factor, ratio = min(canvas_width / width, canvas_height / height), width / height
    if ratio > 1:
        return math.floor(factor * width / ratio)
    return math.floor(factor * height * ratio) if ratio < 1 else factor * height


def _nearest(height: int, width: int, max_tiles: int) -> tuple[int, int]:
    wanted = width / height
    grids = _arrangements(max_tiles)
    ratios = [columns / rows for columns, rows in grids]
    if wanted >= 1:
        ratio = max(ratio for ratio in ratios if ratio <= wanted)
    else:
        ratio = min(ratio for ratio in ratios if ratio > wanted)
    columns, rows = max(grid for grid, own in zip(grids, ratios, strict=True) if own == ratio)
    return rows, columns


def squash(picture: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 RGB [3, H, W] to uint8 [3, height, width] with Pillow's bicubic filter; the ratio is not kept."""
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def split(canvas: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut [C, rows * S, columns * S] into tiles [rows * columns, C, S, S], row by row."""
    rows, columns = grid
    cells = canvas.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))  # [C, rows, S, columns, S]
    return cells.permute(1, 3, 0, 2, 4).flatten(0, 1)


def cut_picture(picture: Tensor, tile: int, max_tiles: int = MAX_TILES, mode: str = "thumb+tile") -> Tensor:
    """The thumbnail and the tiles of a picture.

    Args:
        picture: uint8 RGB [3, H, W].
        tile: Side S of a tile in pixels.
        max_tiles: Without the thumbnail.
        mode: `thumb+tile`; or `vanilla`, the thumbnail alone.

    Returns:
        uint8 [1 + rows * columns, 3, S, S], the thumbnail first, then the tiles row by row; `vanilla`: [1, 3, S, S].

    Raises:
        OptionError: An unknown mode, or a number below 1.
    """
    require_choice("mode", mode, MODES)
    height, width = picture.shape[-2:]
    grid, _ = find_grid(height, width, tile, max_tiles)
    thumbnail = squash(picture, tile, tile)[None]
    if mode == "vanilla":
        return thumbnail
    rows, columns = grid
    return torch.cat((thumbnail, split(squash(picture, rows * tile, columns * tile), grid)))


def normalize(tiles: Tensor) -> Tensor:
    """uint8 to float32, from -1 (black) to 1 (white): mean and standard deviation of PE are 0.5."""
    if tiles.dtype != torch.uint8:
        raise OptionError(f"tiles of {tiles.dtype} are not pixels; pass uint8")
    return tiles.float().div_(255).sub_(0.5).div_(0.5)
