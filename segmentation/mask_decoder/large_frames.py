"""The objects and segments of large pictures, by the cells of the network's maps; see `segmentation.cell_grid`.

No map of the picture's size exists but that of the segments. Results are those of `postprocess` up to
rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pe_spatial.common.windows import Region
from pe_spatial.data import mask_areas, place_profiles
from pe_spatial.segmentation.cell_grid import CellGrid, corners
from pe_spatial.segmentation.cell_sums import CellSums

_MARGIN = 1e-4  # of the largest logit or probability: nearer to a change, pixels are looked at
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


def mask_of(sums: CellSums, logits: Tensor) -> LargeMask:
    """The pixels whose logit is above 0.

    Args:
        sums: Of the picture.
        logits: [h, w] of the network's input, without padding.
    """
    grid, margin = sums.grid, _MARGIN * float(logits.abs().amax())
    possible = corners(logits)[1] > -margin
    rows, columns = (grid.pixels(side, *_ends(possible.any(dim))) for side, dim in ((grid.rows, 1), (grid.columns, 0)))
    rle = place_profiles(*grid.profiles(logits, rows, columns), 0.0, (rows.start, columns.start), grid.frame)
    area = mask_areas([rle])[0]
    return LargeMask(rle, area, logits.new_tensor(sums.probability(logits, margin) / max(area, 1)))


def _ends(occupied: Tensor) -> tuple[int, int]:
    """The first of the true ones and the one behind the last, 0 and 0 for none."""
    found = occupied.nonzero()[:, 0].tolist()
    return (found[0], found[-1] + 1) if found else (0, 0)


@dataclass(frozen=True)
class Owners:
    """Which mask every pixel belongs to.

    Attributes:
        wholes: The pixels of each mask, hidden ones included.
        parts: Rectangles of pixels, which do not overlap, and the numbers of masks there, int16 [R, C], -1 for none.
        cells: The cells of the picture that no part covers.
        winners: The number of the mask of each cell [h, w], for these.
    """

    size: tuple[int, int]
    wholes: list[int]
    parts: Sequence[tuple[Region, Tensor]]
    cells: CellGrid | None = None
    winners: Tensor | None = None

    def visible(self) -> list[int]:
        """The pixels that belong to each mask."""
        length = len(self.wholes) + 1
        counts = torch.zeros(length, dtype=torch.float64)
        for _, numbers in self.parts:
            counts += torch.bincount(numbers.flatten().long() + 1, minlength=length).cpu()
        if self.cells is not None and self.winners is not None:
            pixels = self.cells.pixels_of_cells()
            for region, _ in self.parts:
                pixels[self.cells.cells_of(*region)] = 0
            counts += torch.bincount(self.winners.cpu().flatten() + 1, pixels.flatten().double(), length)
        return [int(count) for count in counts[1:].tolist()]

    def numbered(self, ids: Tensor) -> Tensor:
        """The map [H, W] of the ids of masks; the last of them stands for pixels of no mask."""
        if self.cells is not None and self.winners is not None:
            whole = self.cells.fill(ids[self.winners])
        else:
            whole = ids.new_empty(self.size)
        for region, numbers in self.parts:
            whole[region] = ids[numbers.long()]
        return whole


def owners_of(sums: CellSums, logits: Tensor, scores: Tensor) -> Owners:
    """Which mask every pixel belongs to.

    A pixel goes to the mask with the largest product of score and probability, and belongs to it where that mask is on.

    Args:
        sums: Of the picture.
        logits: [Q, h, w], at least one, of the network's input, without padding.
        scores: Of each mask [Q].
    """
    grid, (low, high) = sums.grid, corners(logits)
    least, most = scores[:, None, None] * low.sigmoid(), scores[:, None, None] * high.sigmoid()
    surest, winner = least.max(0)
    others = most.scatter(0, winner[None], 0).amax(0)
    margin = _MARGIN * logits.abs().amax()
    on, off = low > margin, high < -margin
    is_on, is_off = (state.gather(0, winner[None])[0] for state in (on, off))
    certain = (surest > others + _MARGIN) & (is_on | is_off)
    parts = []
    for region in grid.rectangles(~certain):
        cells = grid.cells_of(*region)
        able = (most[(..., *cells)].amax((1, 2)) >= surest[cells].amin() - _MARGIN).nonzero()[:, 0]
        probability = grid.interpolate(logits[able], *region).sigmoid_()
        best, number = (scores[able, None, None] * probability).max(0)
        inside = (probability.gather(0, number[None])[0] >= 0.5) & (best > 0)
        parts.append((region, torch.where(inside, able[number], _NOBODY).to(torch.int16)))
    pixels = grid.pixels_of_cells().to(logits.device)
    areas = [
        int((pixels * state).sum()) + sums.count(each, mixed)
        for each, state, mixed in zip(logits, on, ~(on | off), strict=True)
    ]
    return Owners(grid.frame, areas, parts, grid, torch.where(is_on, winner, _NOBODY))
