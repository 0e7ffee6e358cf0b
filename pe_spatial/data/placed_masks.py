"""Masks of parts of a picture as COCO's RLEs of all of it, and back, without ever holding a bitmap of the whole.

An RLE counts pixels column by column. A run of a part is a run of the picture, a column further by its height; so only
the runs move. A bitmap of 100 megapixels is 100 MB for every object, the RLE of a small object less than a kilobyte.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from pe_spatial.common.windows import Region
from pe_spatial.data.coco_masks import runs_of
from pe_spatial.data.transforms import boxes_of_masks

Rle = Mapping[str, Any]


def place_masks(masks: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks of a window as RLEs of the picture, equal to `encode_masks` of what is empty around the window.

    Args:
        masks: Bool [N, h, w].
        corner: (row, column) of the window's first pixel in the picture.
        size: (H, W) of the picture, in which the window lies.
    """
    masks = masks.detach().bool()
    placed = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes_of_masks(masks).int().tolist(), strict=True):
        placed.append(place_columns([mask[y1:y2, x1:x2].T], (corner[0] + y1, corner[1] + x1), size))
    return placed


def place_columns(strips: Iterable[Tensor], corner: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
    """The RLE of one mask that arrives in strips from left to right, so that no more than a strip of it exists.

    Args:
        strips: Bool [w, h], by columns, all of one height; each begins where the one before ends.
        corner: (row, column) of the first pixel of the first strip in the picture.
        size: (H, W) of the picture, in which all strips lie; it is empty elsewhere.
    """
    row, column = corner
    found = []
    for strip in strips:
        found.append(_ends_of_runs(strip.cpu().numpy(), column * size[0] + row, size[0]))
        column += len(strip)
    return _rle_of(np.concatenate(found) if found else np.zeros(0, np.int64), size)


def place_profiles(
    profiles: NDArray[np.float32],
    lower: NDArray[np.int64],
    part: NDArray[np.float32],
    threshold: float,
    corner: tuple[int, int],
    size: tuple[int, int],
) -> dict[str, Any]:
    """The RLE of where a map is above a threshold that is linear between a few entries of every column.

    Between two entries, a column changes its side no more than once, at a place that is found by bisection. So the
    pixels of a large mask are never computed, and the result is equal to that of `place_columns` for all of them.

    Args:
        profiles: [w, n] the values of each column at its entries, n at least 2.
        lower: [h] the entry before each pixel of a column, rising, at most n - 2.
        part: [h] how far a pixel is on the way to the next entry, from 0 to 1 and rising between two entries.
        threshold: Pixels above it belong to the mask.
        corner: (row, column) of the first pixel of the first column in the picture.
        size: (H, W) of the picture, in which all columns lie; it is empty elsewhere.
    """
    height = len(lower)
    if not height or not len(profiles):
        return _rle_of(np.zeros(0, np.int64), size)

    firsts = np.flatnonzero(np.diff(lower, prepend=-1))  # the first pixel between two entries, [s]
    lasts = np.append(firsts[1:], height) - 1
    before, steps = profiles[:, lower[firsts]], np.diff(profiles)[:, lower[firsts]]  # [w, s]
    start, end = (before + part[ends] * steps > np.float32(threshold) for ends in (firsts, lasts))
    changes = np.empty((len(profiles), 2 * len(firsts) + 1), bool)  # at the head of each piece, within it, …
    changes[:, 0] = start[:, 0]
    changes[:, 2:-1:2] = start[:, 1:] != end[:, :-1]
    changes[:, 1::2] = start != end
    changes[:, -1] = end[:, -1]  # at the foot of the column
    columns, places = np.nonzero(changes)
    pieces = places // 2
    ends_of_runs = np.append(firsts, height)[pieces]
    is_within = places % 2 == 1
    columns_within, pieces = columns[is_within], pieces[is_within]
    low, high = firsts[pieces], lasts[pieces]  # of one side, and of the other
    begins, before, steps = (each[columns_within, pieces] for each in (start, before, steps))
    while (high - low > 1).any():
        middle = (low + high) // 2
        is_before = (before + part[middle] * steps > np.float32(threshold)) == begins
        low, high = np.where(is_before, middle, low), np.where(is_before, high, middle)
    ends_of_runs[is_within] = high
    row, left = corner
    return _rle_of((columns + left) * size[0] + row + ends_of_runs, size)


def _rle_of(borders: NDArray[np.int64], size: tuple[int, int]) -> dict[str, Any]:
    """An RLE of where runs within columns start and end, in turn, as numbers of pixels of the picture."""
    apart = borders[1:-1:2] != borders[2::2]  # a run to the foot of a column goes on at the head of the next
    kept = np.ones(len(borders), bool)
    kept[1:-1:2] = kept[2::2] = apart
    total = size[0] * size[1]
    borders = borders[kept]
    runs: list[int] = np.diff(np.r_[0, borders, total]).tolist()
    counts = runs[:-1] if len(borders) and borders[-1] == total else runs
    rle = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _ends_of_runs(columns: NDArray[np.bool_], first: int, height: int) -> NDArray[np.int64]:
    """Where runs start and end, in turn, as numbers of pixels of the picture.

    Args:
        columns: Bool [w, h].
        first: The number of the first of its pixels.
        height: Of the picture.
    """
    padded = np.zeros((columns.shape[0], columns.shape[1] + 2), bool)
    padded[:, 1:-1] = columns
    column, row = np.divmod(np.flatnonzero(padded[:, 1:] != padded[:, :-1]), columns.shape[1] + 1)
    return column * height + row + first


def move_masks(rles: Sequence[Rle], corner: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks of a window as masks of the picture, which is empty around the window.

    Args:
        rles: Of the window.
        corner: (row, column) of the window's first pixel in the picture.
        size: (H, W) of the picture, in which the window lies.
    """
    moved = []
    for rle in rles:
        (rows, columns), part = cut_mask(rle)
        place = (corner[0] + rows.start, corner[1] + columns.start)
        moved.append(place_columns([torch.from_numpy(part).T], place, size))
    return moved


def mirror_masks(rles: Sequence[Rle]) -> list[dict[str, Any]]:
    """Masks of a picture as those of the picture with left and right exchanged."""
    mirrored = []
    for rle in rles:
        (rows, columns), part = cut_mask(rle)
        corner = (rows.start, rle["size"][1] - columns.stop)
        mirrored.append(place_columns([torch.from_numpy(part).T.flip(0)], corner, tuple(rle["size"])))
    return mirrored


def cut_mask(rle: Rle, margin: int = 0) -> tuple[Region, NDArray[np.bool_]]:
    """The part of a picture that a mask occupies.

    Args:
        rle: {size, counts} with compressed counts, as `encode_masks` and `place_masks` give them.
        margin: Pixels around it that are taken along, as far as the picture reaches.

    Returns:
        Rows and columns of the part, and its bitmap [h, w]; no pixel for an empty mask.
    """
    height, width = rle["size"]
    borders = np.cumsum(runs_of(rle["counts"]))
    starts, ends = borders[:-1:2], borders[1::2]
    if not len(starts):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), bool)
    left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
    is_long = bool((starts // height != (ends - 1) // height).any())  # a run over several columns touches all rows
    top, bottom = (0, height) if is_long else (int((starts % height).min()), int(((ends - 1) % height).max()) + 1)
    rows = slice(max(top - margin, 0), min(bottom + margin, height))
    columns = slice(max(left - margin, 0), min(right + margin, width))
    shape = columns.stop - columns.start, rows.stop - rows.start
    first, last = (
        (place // height - columns.start) * shape[1] + place % height - rows.start for place in (starts, ends - 1)
    )
    steps = np.zeros(shape[0] * shape[1] + 1, np.int8)
    steps[first] = 1
    steps[last + 1] -= 1  # where the next run begins in the next column nothing changes
    return (rows, columns), np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(shape).T


def box_of_mask(rle: Rle) -> tuple[int, int, int, int]:
    """The smallest box (x1, y1, x2, y2) around a mask, as `boxes_of_masks` says; zeros for an empty one."""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    return (x, y, x + width, y + height) if width and height else (0, 0, 0, 0)


def mask_areas(rles: Sequence[Rle]) -> list[int]:
    """The pixels of masks."""
    return [int(coco_mask.area(rle)) for rle in rles]  # of a list, pycocotools fails from 256 masks on with numpy 2


def decode_masks(masks: Tensor | Sequence[Rle], size: tuple[int, int] | None = None) -> Tensor:
    """Masks as bool [N, H, W], for few, or for small pictures: `pred_instances.masks` of a sample are RLEs.

    Args:
        masks: RLEs of one size; or bitmaps, which stay as they are.
        size: (H, W) of the picture, which matters where there is no mask; that of the masks otherwise.

    Raises:
        ValueError: Masks of another size than `size`, or of several.
    """
    if isinstance(masks, Tensor):
        return masks.bool()
    size = size or ((masks[0]["size"][0], masks[0]["size"][1]) if len(masks) else (0, 0))
    for rle in masks:
        if tuple(rle["size"]) != tuple(size):
            raise ValueError(
                f"a mask of {tuple(rle['size'])} (H, W) among those of {tuple(size)}; decode each one separately"
            )
    bitmaps = torch.zeros(len(masks), *size, dtype=torch.bool)
    for bitmap, rle in zip(bitmaps, masks, strict=True):
        region, part = cut_mask(rle)
        bitmap[region] = torch.from_numpy(part)
    return bitmaps
