"""Windows over an image: where they lie, and the weighted mean of what they say.

Letters: H, W rows and columns of the image; h, w of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Region = tuple[slice, slice]  # rows, columns


def strided_starts(length: int, window: int, stride: int) -> list[int]:
    """Place windows along an axis at a fixed stride; the last one is moved back to end with the axis.

    An axis that is shorter than the window has one window, which starts at 0 (the rule of mmseg's slide mode).
    """
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def even_starts(length: int, window: int, overlap: float) -> list[int]:
    """Place as few windows as possible along an axis, evenly spaced from one end to the other.

    Args:
        length: Of the axis.
        window: Length of a window.
        overlap: Share of a window, 0 or more and below 1, that neighbors have in common at least.
    """
    if length <= window:
        return [0]
    steps = -(-(length - window) // max(int(window * (1 - overlap)), 1))
    return [round(step * (length - window) / steps) for step in range(steps + 1)]


def regions(rows: Sequence[int], columns: Sequence[int], window: tuple[int, int]) -> list[Region]:
    """Rows and columns of every window (h, w), row by row, from the first rows and the first columns."""
    return [(slice(y, y + window[0]), slice(x, x + window[1])) for y in rows for x in columns]


def tiles(height: int, width: int, tile: int, reach: int) -> Iterator[tuple[Region, Region]]:
    """Cut a grid into square tiles, each with what its cells look at.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        tile: Side of a tile; those at the end are smaller.
        reach: How many cells further than its own place a cell looks, along both axes.

    Yields:
        The tile, and the neighborhood of all of its cells, which ends with the grid.
    """
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            rows = slice(max(top - reach, 0), min(bottom + reach, height))
            columns = slice(max(left - reach, 0), min(right + reach, width))
            yield (slice(top, bottom), slice(left, right)), (rows, columns)


def blend(parts: Iterable[tuple[Region, Tensor]], weight: Tensor | float, size: tuple[int, int]) -> Tensor:
    """Average windows where they overlap.

    Args:
        parts: The region of each window, and its values [..., h, w] times `weight`. Together they cover the image.
        weight: Of the values of a window, [h, w] or one number.
        size: (H, W) of the image.

    Returns:
        [..., H, W] of the type of the values.
    """
    remaining = iter(parts)
    first = next(remaining)
    total, weights = first[1].new_zeros(*first[1].shape[:-2], *size), first[1].new_zeros(size)
    for region, values in chain([first], remaining):
        total[(..., *region)] += values
        weights[region] += weight
    return total / weights
