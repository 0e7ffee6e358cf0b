"""Maps of a network at the size of a large picture, computed pixel by pixel only where something changes.

Bilinear interpolation mixes the four values at the corners of a cell. Where one class is the largest at all four, or
a mask is on at all four, it is so for every pixel between them; a photograph of 36 megapixels has 2000 pixels in a cell
of a map of 128 x 128, and most cells are of that kind. The others are interpolated, in rectangles of neighbors.

Letters: H, W rows and columns of the picture; h, w of the map; K maps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.windows import Region

LARGE = 2**22  # pixels of a picture from which on the cells are worth the trouble
_MARGIN = 1e-4  # of the largest value: nearer to a change, what rounding makes of a pixel decides
_FEW = 16  # maps
_SIDE = 32  # pixels of the smallest rectangle


@dataclass(frozen=True)
class Side:
    """Rows or columns: from which entries of the map a pixel is made, as torch's `interpolate` does it.

    Attributes:
        lower: The entry before each pixel of the picture [L], and the number of its cell.
        upper: The entry behind it [L].
        part: The share of the upper one [L].
        starts: The first pixel of every cell, and the end of the last one [l + 1].
    """

    cells: int
    pixels: int
    lower: Tensor = field(init=False)
    upper: Tensor = field(init=False)
    part: Tensor = field(init=False)
    starts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        scale = float(torch.tensor(self.cells / self.pixels))  # torch computes the positions in single precision
        place = (scale * (torch.arange(self.pixels, dtype=torch.float64) + 0.5) - 0.5).float().clamp_min(0)
        lower = place.long().clamp_max(self.cells - 1)
        starts = torch.searchsorted(lower, torch.arange(self.cells + 1))
        values = {"lower": lower, "upper": (lower + 1).clamp_max(self.cells - 1), "part": place - lower}
        for name, value in {**values, "starts": starts}.items():
            object.__setattr__(self, name, value)


class CellGrid:
    """The cells between the entries of a map (h, w) in a picture (H, W), both without padding.

    Args:
        cells: (h, w).
        frame: (H, W).
    """

    def __init__(self, cells: tuple[int, int], frame: tuple[int, int]) -> None:
        self.frame = frame
        self.rows, self.columns = (Side(*each) for each in zip(cells, frame, strict=True))
        # neighbors are looked at together where cells are small
        self.step = [max(-(-_SIDE * count // side), 1) for count, side in zip(cells, frame, strict=True)]

    def labels(self, scores: Tensor) -> Tensor:
        """The largest of the maps at every pixel, as `argmax` of the enlarged maps up to rounding.

        Args:
            scores: [K, h, w].

        Returns:
            [H, W], uint8 up to 256 maps, else int32.
        """
        scores = scores.detach()
        best, label = scores.float().topk(min(2, len(scores)), dim=0)
        gap = best[0] - best[-1] if len(scores) > 1 else torch.full_like(best[0], torch.inf)
        low, high = corners(label[0])
        certain = (low == high) & (corners(gap)[0] > _MARGIN * scores.abs().amax().clamp_min(1e-30))
        kind = torch.uint8 if len(scores) <= 256 else torch.int32
        whole = self.fill(label[0].to(kind))
        for region, values in self.values(scores, ~certain):
            whole[region] = _largest(values, kind)
        return whole

    def fill(self, values: Tensor) -> Tensor:
        """One value of each cell [h, w] as those of its pixels [H, W]."""
        down, right = self.rows.starts.diff(), self.columns.starts.diff()
        if values.device.type == "cpu":  # NumPy takes a third of the time
            return torch.from_numpy(np.repeat(np.repeat(values.numpy(), right, 1), down, 0))
        return values.repeat_interleave(right.to(values.device), 1).repeat_interleave(down.to(values.device), 0)

    def pixels_of_cells(self) -> Tensor:
        """How many pixels each cell has, int64 [h, w]."""
        return self.rows.starts.diff()[:, None] * self.columns.starts.diff()

    def values(self, maps: Tensor, asked: Tensor) -> Iterator[tuple[Region, Tensor]]:
        """The enlarged maps in rectangles of pixels that together cover the cells which are asked for.

        Args:
            maps: [K, h, w].
            asked: bool [h, w]; further cells come along where cells are small.

        Yields:
            Rows and columns of the picture, and the values [K, R, C] there.
        """
        for rows, columns in self.rectangles(asked):
            yield (rows, columns), self.interpolate(maps, rows, columns)

    def interpolate(self, maps: Tensor, rows: slice, columns: slice) -> Tensor:
        """The enlarged maps [K, R, C] in a rectangle of pixels, as torch's bilinear `interpolate` up to rounding."""
        first, last = int(self.rows.lower[rows.start]), int(self.rows.lower[rows.stop - 1])
        wide = self._across(maps[:, first : int(self.rows.upper[rows.stop - 1]) + 1], columns)
        share = self.rows.part[rows].to(maps.device)[:, None]
        if first == last:  # all rows lie between the same two entries, which need no copy for each row
            return torch.lerp(wide[:, :1], wide[:, -1:], share)
        above, below = (values[rows].to(maps.device) - first for values in (self.rows.lower, self.rows.upper))
        return torch.lerp(wide.index_select(1, above), wide.index_select(1, below), share)

    def _across(self, maps: Tensor, columns: slice) -> Tensor:
        """The maps [K, n, w] at some columns of the picture, [K, n, C]."""
        left, right, part = (
            values[columns].to(maps.device) for values in (self.columns.lower, self.columns.upper, self.columns.part)
        )
        near = maps.float()
        # index_select takes 20 times as long here
        before, behind = (near.gather(2, side.expand(*near.shape[:2], -1)) for side in (left, right))
        return torch.lerp(before, behind, part)

    def profiles(
        self, values: Tensor, rows: slice, columns: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """An enlarged map [h, w] in a rectangle of pixels, by the entries between which its columns are linear.

        Returns:
            The values [C, n] of each column at its entries, the entry before each pixel [R], and how far the pixel is
            on the way to the next one [R]; see `place_profiles`.
        """
        lower = self.rows.lower[rows]
        if not len(lower):
            return np.zeros((0, 2), np.float32), lower.numpy(), self.rows.part[rows].numpy()
        first, last = int(lower[0]), int(lower[-1])
        wide = self._across(values[None, first : last + 2], columns)[0]
        if last + 1 == len(values):  # the last cell has no entry behind it
            wide = torch.cat([wide, wide[-1:]])
        return wide.T.cpu().numpy(), (lower - first).numpy(), self.rows.part[rows].numpy()

    def rectangles(self, asked: Tensor) -> Iterator[Region]:
        """Rows and columns of the picture that cover the cells asked for, bool [h, w]; they do not overlap."""
        down, right = self.step
        missing = (-asked.shape[1] % right, -asked.shape[0] % down)
        padded = F.pad(asked[None, None].float(), (0, missing[0], 0, missing[1]))
        blocks = F.max_pool2d(padded, (down, right))[0, 0].bool().cpu()  # [h / down, w / right]
        edges = F.pad(blocks.int(), (1, 1)).diff(dim=1)
        starts, stops = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
        for (row, first), (_, last) in zip(starts, stops, strict=True):
            rows = self.pixels(self.rows, row * down, (row + 1) * down)
            columns = self.pixels(self.columns, first * right, last * right)
            if rows.start < rows.stop and columns.start < columns.stop:  # a cell may have no pixel
                yield rows, columns

    def cells_of(self, rows: slice, columns: slice) -> Region:
        """The cells of a rectangle of pixels."""
        found = [
            slice(int(side.lower[part.start]), int(side.lower[part.stop - 1]) + 1)
            for side, part in ((self.rows, rows), (self.columns, columns))
        ]
        return found[0], found[1]

    @staticmethod
    def pixels(side: Side, first: int, last: int) -> slice:
        """The pixels along a side of the cells from `first` up to `last`."""
        return slice(int(side.starts[first]), int(side.starts[min(last, side.cells)]))


def grid_of(sample: BaseDataElement, large: int = LARGE) -> CellGrid | None:
    """The cells of a large picture, as far as it has more rows and columns than the network saw.

    Args:
        sample: See `unpad`.
        large: Pixels from which on a picture is large.
    """
    seen, size = ((int(side[0]), int(side[1])) for side in (sample.img_shape, sample.ori_shape))
    is_large = size[0] * size[1] > large and size[0] > seen[0] and size[1] > seen[1]
    return CellGrid(seen, size) if is_large else None


def as_indices(labels: Tensor) -> Tensor:
    """Labels as int64, with which tensors can be indexed; NumPy needs half of the time for new memory."""
    return torch.from_numpy(labels.numpy().astype(np.int64)) if labels.device.type == "cpu" else labels.long()


def _largest(values: Tensor, kind: torch.dtype) -> Tensor:
    """The first of the largest of [K, R, C] at every pixel; for few of them, torch's `argmax` takes longer."""
    if len(values) > _FEW:
        return values.argmax(0).to(kind)
    best, number = values[0].clone(), torch.zeros(values.shape[1:], dtype=kind, device=values.device)
    for k, other in enumerate(values[1:], start=1):
        number.masked_fill_(other > best, k)
        torch.maximum(best, other, out=best)
    return number


def corners(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value at the four corners of every cell [..., h, w]; the last ones have no others."""
    low = high = maps
    for dim in (-2, -1):
        size = maps.shape[dim]
        behind = torch.arange(1, size + 1, device=maps.device).clamp_max(size - 1)
        low = torch.minimum(low, low.index_select(dim, behind))
        high = torch.maximum(high, high.index_select(dim, behind))
    return low, high
