"""Class scores of images of any size from windows, in memory that the window bounds and not the image.

Letters: H, W original image; K classes; h, w cells of a window's score map.

What usually happens to the score maps of windows (enlarge each to its window, average where windows overlap, cut the
padding off, enlarge to the original image) is linear and separable: the score of a pixel is a weighted sum of few
cells, and its weight is a product of one number per row and one per column. `Axis` computes these numbers; `blend`
multiplies them with the cells, one small tile of the image after the other. A tile is compared and forgotten, so the
scores of the image never exist; only the cells of the windows that the next rows need are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.common.windows import strided_starts

CELLS_KEPT = 512 * 2**20  # bytes; more makes strips wider, in which fewer windows are computed twice
_TILE_SCORES = {"cpu": 2**17, "cuda": 2**24}  # numbers in a tile: on a CPU they fit into the cache of a core
_TILE_ROWS = 16


@dataclass(frozen=True)
class Axis:
    """Rows or columns: where windows lie, and which of their cells a pixel of the original image is made of.

    Args:
        length: Of the original image.
        network: Of the image that the model sees, without padding.
        padded: With padding.
        window: Of a window, at most `padded`.
        stride: From one window to the next; the last one is moved back to end with the padded image.
        extent: What the cells of a window stand for: the window, and what the model pads it with.
        align_corners: How cells are enlarged to the extent (torch's `interpolate`); images always with False.
    """

    length: int
    network: int
    padded: int
    window: int
    stride: int
    extent: int
    align_corners: bool = False
    starts: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window <= self.padded:
            raise OptionError(
                f"stride {self.stride}, window {self.window} and image {self.padded} must grow in this order, so "
                "that windows leave no gaps"
            )
        object.__setattr__(self, "starts", tuple(strided_starts(self.padded, self.window, self.stride)))

    def weights(self, first: int, last: int, cells: int) -> tuple[int, Tensor]:
        """How pixels are made of cells.

        Args:
            first: First pixel of the original image.
            last: The pixel after the last one.
            cells: Of a window's score map.

        Returns:
            The number of the first window n, and [last - first, N * cells] for the windows n to n + N - 1. A row sums
            to 1.
        """
        lower, upper, part = _taps(torch.arange(first, last), self.network, self.length)
        begin, end = int(lower.min()), int(upper.max()) + 1
        to_network = _matrix(lower - begin, upper - begin, part, end - begin)  # [R, P]
        positions = torch.arange(begin, end)
        covering = [n for n, start in enumerate(self.starts) if start < end and start + self.window > begin]
        blocks, counts = [], torch.zeros(len(positions), 1, dtype=torch.float64)
        for start in (self.starts[n] for n in covering):
            local = positions - start
            inside = ((local >= 0) & (local < self.window))[:, None]
            taps = _taps(local.clamp(0, self.window - 1), cells, self.extent, self.align_corners)
            blocks.append(_matrix(*taps, cells) * inside)  # [P, cells]
            counts += inside
        return covering[0], (to_network @ (torch.cat(blocks, dim=1) / counts)).float()

    def finished(self, windows: int) -> int:
        """How many pixels of the original image are known once the first `windows` windows are."""
        if windows == len(self.starts):
            return self.length
        _, upper, _ = _taps(torch.arange(self.length), self.network, self.length)
        return int(torch.searchsorted(upper, self.starts[windows]))

    def covering(self, first: int, last: int) -> range:
        """The windows that pixels `first` up to `last` of the original image need."""
        lower, upper, _ = _taps(torch.tensor([first, last - 1]), self.network, self.length)
        begin, end = int(lower[0]), int(upper[1]) + 1
        found = [n for n, start in enumerate(self.starts) if start < end and start + self.window > begin]
        return range(found[0], found[-1] + 1)


@lru_cache(maxsize=512)  # the pictures of a folder often have one size
def _used_weights(axis: Axis, first: int, last: int, cells: int) -> tuple[int, Tensor, Tensor]:
    """What `Axis.weights` tells, of the cells alone that have a weight: first window, [last - first, m], which [m]."""
    window, weights = axis.weights(first, last, cells)
    used = weights.any(0).nonzero()[:, 0]
    return window, weights[:, used], used


def _taps(positions: Tensor, source: int, target: int, align_corners: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation from `source` to `target` cells as torch defines it: lower cell, upper cell, its share."""
    if align_corners:
        place = positions.double() * ((source - 1) / max(target - 1, 1))
    else:
        place = ((positions.double() + 0.5) * (source / target) - 0.5).clamp_min(0)
    lower = place.long().clamp_max(source - 1)
    return lower, (lower + 1).clamp_max(source - 1), place - lower


def _matrix(lower: Tensor, upper: Tensor, part: Tensor, columns: int) -> Tensor:
    matrix = torch.zeros(len(lower), columns, dtype=torch.float64)
    matrix.scatter_add_(1, lower[:, None], (1 - part)[:, None])
    return matrix.scatter_add_(1, upper[:, None], part[:, None])


class Strip(NamedTuple):
    """Columns `first` up to `last` of the original image and the window columns that they need."""

    first: int
    last: int
    windows: range


@dataclass(frozen=True)
class Grid:
    """The windows over an image, in strips from top to bottom."""

    rows: Axis
    columns: Axis
    strips: list[Strip]

    @classmethod
    def over(cls, rows: Axis, columns: Axis, cells: tuple[int, int], num_classes: int) -> "Grid":
        """Cut the image into as few strips as keep the cells of the windows in memory below `CELLS_KEPT`.

        Args:
            rows: Windows along the height of the image.
            columns: Windows along its width.
            cells: (h, w) of a window's score map.
            num_classes: K.
        """
        overlap = 1 + -(-rows.window // rows.stride)  # window rows that are kept at a time
        per_window = 4 * num_classes * cells[0] * cells[1] * overlap
        most = max(CELLS_KEPT // per_window, 2)
        total = len(columns.starts)
        count = 1 if total <= most else -(-total // (most - 1))
        edges = [round(number * columns.length / count) for number in range(count + 1)]
        return cls(rows, columns, [Strip(a, b, columns.covering(a, b)) for a, b in zip(edges, edges[1:], strict=False)])

    def seen(self) -> "Grid":
        """The same windows over the image that the model sees, in one strip."""
        rows, columns = (replace(axis, length=axis.network) for axis in (self.rows, self.columns))
        return Grid(rows, columns, [Strip(0, columns.length, columns.covering(0, columns.length))])

    def places(self) -> Iterator[tuple[int, int]]:
        """Upper left corners of the windows in the order in which `blend` takes their scores."""
        for strip in self.strips:
            for y in self.rows.starts:
                for n in strip.windows:
                    yield y, self.columns.starts[n]


class Tile(NamedTuple):
    """Scores [R, C, K] of a rectangle of the original image, whose upper left pixel is (top, left)."""

    top: int
    left: int
    scores: Tensor


def blend(grid: Grid, scores: Iterator[Tensor]) -> Iterator[Tile]:
    """Average the windows and give the scores at the size of the original image, tile by tile.

    Args:
        grid: The windows.
        scores: One [h, w, K] float32 for each of `grid.places()`, taken when it is needed.
    """
    for strip in grid.strips:
        kept: dict[int, Tensor] = {}  # cells of a row of windows, [h, N * w, K]
        done = 0
        columns: list[tuple[int, Tensor, Tensor]] = []
        for number in range(len(grid.rows.starts)):
            row = [next(scores) for _ in strip.windows]
            kept[number] = torch.cat(row, dim=1)
            columns = columns or _column_tiles(grid.columns, strip, row[0])
            ready = grid.rows.finished(number + 1)
            for top in range(done, ready, _TILE_ROWS):
                bottom = min(top + _TILE_ROWS, ready)
                yield from _row_of_tiles(grid.rows, kept, (top, bottom), columns)
            done = ready
            needed = grid.rows.covering(done, done + 1)[0] if done < grid.rows.length else number + 1
            for passed in [n for n in kept if n < needed]:
                del kept[passed]


def _column_tiles(axis: Axis, strip: Strip, cells: Tensor) -> list[tuple[int, Tensor, Tensor]]:
    """Of every tile of a strip the left column, the weights [C, n] and the cells that they belong to [n]."""
    _, width, num_classes = cells.shape
    pixels_per_cell = max(axis.extent * axis.length // (width * axis.network), 1)
    # a tile of few cells, for the work of a pixel grows with them
    side = min(_TILE_SCORES.get(cells.device.type, 2**17) // (_TILE_ROWS * num_classes), 16 * pixels_per_cell)
    side = max(side, 16)
    tiles = []
    for left in range(strip.first, strip.last, side):
        first, weights, used = _used_weights(axis, left, min(left + side, strip.last), width)
        offset = (first - strip.windows[0]) * width
        tiles.append((left, weights.to(cells.device), (used + offset).to(cells.device)))
    return tiles


def _row_of_tiles(
    axis: Axis, kept: dict[int, Tensor], rows: tuple[int, int], columns: list[tuple[int, Tensor, Tensor]]
) -> Iterator[Tile]:
    """The tiles of the image rows from rows[0] up to rows[1]."""
    height, _, num_classes = next(iter(kept.values())).shape
    first, weights, used = _used_weights(axis, *rows, height)
    windows = used // height  # in order
    cells = torch.cat(
        [kept[first + n][(used[windows == n] % height).to(kept[first + n].device)] for n in windows.unique().tolist()]
    )  # [m, N * w, K]
    weights = weights.to(cells.device)  # [R, m]
    for left, column_weights, column_cells in columns:
        wide = column_weights @ cells[:, column_cells]  # [m, C, K]
        yield Tile(rows[0], left, (weights @ wide.flatten(1)).unflatten(1, (-1, num_classes)))
