"""What must hold of COCO's masks before its C code is given them: it takes every number at its word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rings_of(polygons: Sequence[Any], size: tuple[int, int]) -> list[NDArray[np.float64]]:
    """The vertices [V, 2] of polygons; those that COCO's code would crash on, or fill the memory for, are refused.

    That code steps along every edge.

    Args:
        polygons: [[x, y, …], …] in pixels.
        size: (H, W) of the image.

    Raises:
        ValueError: No polygon; one of fewer than three points or an odd number of coordinates; a coordinate that is no
            finite number; or edges that are longer together than any outline of this image.
    """
    if not len(polygons):
        raise ValueError("no polygon")
    edges, rings = 0.0, []
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon of {len(polygon)} coordinates")
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError("a coordinate is not a finite number")
        edges += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        edges += float(np.abs(points).max())  # from the image to the polygon
        rings.append(points)
    most = 4 * size[0] * size[1] + 100 * sum(size)
    if edges > most:
        raise ValueError(f"its edges are {edges:.3g} pixels long in an image of {list(size)} (H, W)")
    return rings


def check_rle(rle: dict[str, Any], size: tuple[int, int]) -> None:
    """Refuse an RLE of another size than the image, or whose runs do not fill it: the rest would be left to chance.

    Args:
        rle: {size: [H, W], counts: a list of numbers, or str or bytes in COCO's compression}.
        size: (H, W) of the image.

    Raises:
        ValueError: As above, or a run that is negative.
    """
    height, width = size
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"an RLE of size {list(rle['size'])} in an image of {[height, width]} (H, W)")
    counts = rle["counts"]
    if isinstance(counts, list):
        runs = np.asarray(counts)
        if runs.size and runs.dtype.kind not in "iu":
            raise ValueError("the runs of an RLE are whole numbers")
    elif isinstance(counts, str | bytes):
        runs = runs_of(counts)
    else:
        raise ValueError(f"the counts of an RLE are a list or text, not {type(counts).__name__}")
    total = int(runs.sum())
    if (runs < 0).any() or total != height * width:
        raise ValueError(f"an RLE of {total} pixels in an image of {height * width}")


def runs_of(counts: str | bytes) -> NDArray[np.int64]:
    """The runs in COCO's compression: groups of 5 bits, the lowest first; from the fourth run on differences.

    Raises:
        ValueError: The last group says that more follow, or one run has more groups than a number of 64 bits.
    """
    groups = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((groups & 0x20) == 0)  # of every run
    first = np.concatenate([[0], last[:-1] + 1]) if len(last) else last
    if (len(last) and last[-1] != len(groups) - 1) or (len(groups) and not len(last)) or (last - first > 6).any():
        raise ValueError("an RLE of damaged compressed runs")
    places = np.arange(len(groups)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((groups & 0x1F) << 5 * places, first) if len(groups) else groups
    negative = (groups[last] & 0x10) != 0
    runs = runs - (negative.astype(np.int64) << 5 * (last - first + 1))
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
