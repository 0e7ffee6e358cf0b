"""Masks of parts of a picture as COCO's RLEs of all of it, and back, without ever holding a bitmap of the whole.

An RLE counts pixels column by column. A run of a part is a run of the picture, a column further by its height; so only
the runs move. A bitmap of 100 megapixels is 100 MB for every object, the RLE of a small object less than a kilobyte.
"""

from collections.abc import Mapping, Sequence
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
        columns = mask[y1:y2, x1:x2].T.cpu().numpy()
        counts = _runs(columns, (corner[0] + y1, corner[1] + x1), size)
        rle = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)
        placed.append({"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")})
    return placed


def _runs(columns: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """The runs of a bitmap [w, h], given by columns, at a corner of a picture that is empty elsewhere."""
    steps = np.diff(np.pad(columns.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    first = corner[1] * size[0] + corner[0]  # number of the corner's pixel
    starts, ends = ((place[0] * size[0] + place[1] + first) for place in (np.nonzero(steps == s) for s in (1, -1)))
    apart = starts[1:] != ends[:-1]  # a run to the foot of a column goes on at the head of the next
    starts, ends = starts[np.r_[True, apart][: len(starts)]], ends[np.r_[apart, True][: len(ends)]]
    total = size[0] * size[1]
    borders = np.stack([starts, ends], axis=1).ravel()
    runs: list[int] = np.diff(np.r_[0, borders, total]).tolist()
    return runs[:-1] if len(borders) and borders[-1] == total else runs


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


def mask_areas(rles: Sequence[Rle]) -> list[int]:
    """The pixels of masks."""
    return [int(coco_mask.area(rle)) for rle in rles]  # of a list, pycocotools fails from 256 masks on with numpy 2


def decode_masks(masks: Tensor | Sequence[Rle]) -> Tensor:
    """Masks of detections as bool [N, H, W], whichever of the two forms they have; for few, or for small pictures."""
    if isinstance(masks, Tensor):
        return masks.bool()
    bitmaps = torch.zeros(len(masks), *(masks[0]["size"] if len(masks) else (0, 0)), dtype=torch.bool)
    for bitmap, rle in zip(bitmaps, masks, strict=True):
        region, part = cut_mask(rle)
        bitmap[region] = torch.from_numpy(part)
    return bitmaps
