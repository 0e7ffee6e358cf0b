"""The objects and segments of large pictures, by the cells of the network's maps; see `segmentation.cell_grid`.

No map of the picture's size exists but that of the owners of pixels. Results are those of `postprocess` up to
rounding.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pe_spatial.common.windows import Region
from pe_spatial.data import place_columns
from pe_spatial.segmentation.cell_grid import CellGrid, corners

_MARGIN = 1e-4  # of the largest logit or probability: nearer to a change, pixels are looked at
_STRIP = 2**20  # pixels of a mask whose values exist at a time
_NOBODY = -1


class LargeMask(NamedTuple):
    """One mask of a picture.

    Attributes:
        rle: See `encode_masks`.
        area: Its pixels.
        certainty: The mean probability inside.
    """

    rle: dict[str, Any]
    area: int
    certainty: Tensor


def mask_of(grid: CellGrid, logits: Tensor) -> LargeMask:
    """The pixels whose logit is above 0.

    Args:
        grid: Of the picture.
        logits: [h, w] of the network's input, without padding.
    """
    possible = corners(logits)[1] > -_MARGIN * logits.abs().amax()
    region = _around(grid, possible)
    area, total = 0, logits.new_zeros((), dtype=torch.float64)
    strips = []
    width = max(_STRIP // max(region[0].stop - region[0].start, 1), 1)
    for left in range(region[1].start, region[1].stop, width):
        columns = slice(left, min(left + width, region[1].stop))
        values = grid.interpolate(logits[None], region[0], columns)[0]
        inside = values > 0
        area += int(inside.sum())
        total += (values.sigmoid_() * inside).sum(dtype=torch.float64)
        strips.append(inside.T)
    rle = place_columns(strips, (region[0].start, region[1].start), grid.frame)
    return LargeMask(rle, area, (total / max(area, 1)).to(logits.dtype))


def _around(grid: CellGrid, cells: Tensor) -> Region:
    """The smallest rectangle of pixels with all the cells [h, w] that are true."""
    sides = []
    for side, occupied in ((grid.rows, cells.any(1)), (grid.columns, cells.any(0))):
        found = occupied.nonzero()[:, 0].tolist()
        sides.append(slice(int(side.starts[found[0]]), int(side.starts[found[-1] + 1])) if found else slice(0, 0))
    return sides[0], sides[1]


def owners_of(grid: CellGrid, logits: Tensor, scores: Tensor) -> tuple[Tensor, list[int]]:
    """Which mask every pixel belongs to, and how large the masks are.

    A pixel goes to the mask with the largest product of score and probability, and belongs to it where that mask is on.

    Args:
        grid: Of the picture.
        logits: [Q, h, w], at least one, of the network's input, without padding.
        scores: Of each mask [Q].

    Returns:
        Numbers of masks int16 [H, W], -1 for none, and the pixels of each mask, hidden ones included.
    """
    low, high = corners(logits)
    least, most = scores[:, None, None] * low.sigmoid(), scores[:, None, None] * high.sigmoid()
    surest, winner = least.max(0)
    others = most.scatter(0, winner[None], 0).amax(0)
    margin = _MARGIN * logits.abs().amax()
    on, off = low > margin, high < -margin
    is_on, is_off = (state.gather(0, winner[None])[0] for state in (on, off))
    certain = (surest > others + _MARGIN) & (is_on | is_off)
    owner = grid.fill(torch.where(is_on, winner, _NOBODY).to(torch.int16))
    for region, values in grid.values(logits, ~certain):
        probability = values.sigmoid()
        best, number = (scores[:, None, None] * probability).max(0)
        inside = (probability.gather(0, number[None])[0] >= 0.5) & (best > 0)
        owner[region] = torch.where(inside, number, _NOBODY).to(torch.int16)
    pixels = grid.pixels_of_cells().to(logits.device)
    areas = [int((pixels * state).sum()) for state in on]
    for place, mixed in enumerate(~(on | off)):
        areas[place] += _pixels_above(grid, logits[place], mixed)
    return owner, areas


def _pixels_above(grid: CellGrid, logits: Tensor, asked: Tensor) -> int:
    """How many pixels of the cells asked for, bool [h, w], are on."""
    count = 0
    for (rows, columns), values in grid.values(logits[None], asked):
        counted = asked[grid.rows.lower[rows]][:, grid.columns.lower[columns]]
        count += int(((values[0].sigmoid() >= 0.5) & counted).sum())
    return count
