"""Masks of object numbers: found in folders, read from files, and judged before anything is tracked by them.

Letters: H, W rows and columns of pixels.
"""

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pe_spatial.common.errors import AnnotationError, UnreadableFile, few
from pe_spatial.common.pictures import IndexModeError, read_indices
from pe_spatial.tracking.label_tracker import MAX_OBJECTS
from pe_spatial.visualization.colors import bright_color, palette

VOID = 255  # "unknown" where a video has numbered objects

MaskFile = str | Path | Image.Image


# --- files ------------------------------------------------------------------------------------------------------------
def mask_files(folder: Path) -> dict[str, str]:
    """The masks in a folder by their names without suffix, `.png` in upper or lower case; none where it does not exist.

    Raises:
        AnnotationError: Two have one name.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() == ".png" and not path.name.startswith("."):
            if path.stem in found:
                raise AnnotationError(
                    f"{found[path.stem]} and {path.name} are masks of the same frame; remove one of them"
                )
            found[path.stem] = str(path)
    return found


def lies_there(folder: Path) -> str:
    """What a folder without masks of the right names holds, for a message."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    others = Counter(Path(name).suffix for name in names)
    counted = few(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common())
    return f"there lie {few(names)} ({counted}), and masks are .png files" if names else "it is empty"


def read_mask(path: MaskFile, only: Collection[int] | None = None, binary: bool | None = None) -> Tensor:
    """Read a mask file, a PNG of object numbers, as int64 [H, W].

    Grayscale and palette files hold the numbers. Of RGB files the colors count: those of DAVIS's palette, or of ours.

    Args:
        path: the file, or the image in memory.
        only: numbers to keep; the others become 0. None keeps all but 255, which stands for "unknown".
        binary: True: everything above 0 is the one object 1 (DAVIS 2016: 0 and 255). False: the file is of a video of
            numbered objects, where 255 is none. None: True for a file whose only values are 0 and 255, else False.

    Raises:
        UnreadableFile: the file is missing or damaged.
        IndexModeError: the file holds other colors.
    """
    values = torch.from_numpy(_read_numbers(path))
    if binary or (binary is None and not _is_numbered(values)):
        return (values > 0).long()
    if only is not None:
        return values * torch.isin(values, torch.tensor(sorted(only), dtype=torch.int64))
    return values * (values != VOID)


def read_prompt(path: MaskFile, binary: bool | None = None) -> Tensor:
    """A mask that says what to track, as `read_mask`.

    Raises:
        UnreadableFile: As `read_mask`.
        AnnotationError: It cannot hold object numbers; see `mask_fault`.
    """
    if fault := mask_fault(path):
        raise AnnotationError(fault)
    values = set(np.unique(_read_numbers(path)).tolist())
    if not binary and VOID in values and values - {0, VOID}:
        warnings.warn(f"{path}: 255 is taken for unknown, not for an object, beside others; renumber it", stacklevel=2)
    return read_mask(path, binary=binary)


def holds_numbers(paths: Iterable[MaskFile | None]) -> bool:
    """Whether masks of a video number its objects: whether one of them has values other than 0 and 255.

    Files that cannot be read say nothing.
    """
    for path in paths:
        if path is not None:
            try:
                if _is_numbered(torch.from_numpy(_read_numbers(path))):
                    return True
            except UnreadableFile:  # named where it is read
                continue
    return False


def first_with_objects(paths: Sequence[str | None], binary: bool | None) -> int | None:
    """The place of the first mask that holds an object, or else of the first mask; None where there is no mask."""
    places = [place for place, path in enumerate(paths) if path is not None]
    for place in places:
        try:
            if read_mask(str(paths[place]), binary=binary).any():
                return place
        except UnreadableFile:  # named where it is read
            return place
    return places[0] if places else None


# --- values -----------------------------------------------------------------------------------------------------------
def mask_fault(path: MaskFile) -> str | None:
    """Why the values of a mask cannot be object numbers; None if they may be.

    Raises:
        UnreadableFile: As `read_mask`.
    """
    values = torch.from_numpy(_read_numbers(path))
    name = "the mask" if isinstance(path, Image.Image) else str(path)
    if edges := blurred_values(values):
        return (
            f"{name}: {len(edges)} of its {len(values.unique())} values ({few(edges)}) occur only on edges, between a "
            "smaller and a larger value: the file was smoothed or compressed with loss; save it again as PNG"
        )
    if (largest := int(values.max())) > MAX_OBJECTS or int(values.min()) < 0:
        return f"{name}: the mask holds values up to {largest}; objects are numbered 1…{MAX_OBJECTS}: renumber them"
    return None


def blurred_values(values: Tensor) -> list[int]:
    """The values of a mask [H, W] that smoothing has made of its edges; none where it is sharp.

    Such a value lies between a smaller and a larger neighbor at most of its pixels, and nowhere fills 3 x 3 pixels.
    A mask is smoothed if there are two, and they are more than half of its values above 0.
    """
    known, places = values.unique(return_inverse=True)
    if len(known) < 4:
        return []
    ranks = F.pad(places[None, None].float(), (1, 1, 1, 1), mode="replicate")  # exact, which large values are not
    high, low = (sign * F.max_pool2d(sign * ranks, 3, stride=1)[0, 0] for sign in (1, -1))
    counts = torch.bincount(places.flatten(), minlength=len(known))
    between = torch.bincount(places[(low < places) & (places < high)], minlength=len(known))
    filled = torch.bincount(places[(low == high)], minlength=len(known))
    edges = known[(between * 2 > counts) & (filled == 0) & (known > 0)].tolist()
    return edges if len(edges) >= 2 and 2 * len(edges) > int((known > 0).sum()) else []


def _is_numbered(values: Tensor) -> bool:
    return not set(values.unique().tolist()) <= {0, VOID}


# --- colors -----------------------------------------------------------------------------------------------------------
def _read_numbers(path: MaskFile) -> NDArray[np.int64]:
    """The values [H, W] of a file; of one in colors, the numbers of the objects that have them."""
    values = read_indices(path, colors=True)
    if values.ndim == 2:
        return values
    if (values == values[..., :1]).all():  # gray levels in three bands
        return values[..., 0].astype(np.int64)
    codes = _codes(values)
    present = np.unique(codes)
    for table in _tables():
        if np.isin(present, table).all():
            order = np.argsort(table)
            return order[np.searchsorted(table, codes, sorter=order)]
    known = np.isin(present, _tables()[0])
    foreign = present[~known]
    shown = few(str((code >> 16, code >> 8 & 255, code & 255)) for code in foreign.tolist())
    raise IndexModeError(
        f"{path} cannot be read: it contains colors, and {len(foreign)} of them are not in the palette of DAVIS "
        f"({shown}); save a grayscale or palette PNG in which every pixel has the number of its object"
    )


def _codes(colors: NDArray[np.uint8]) -> NDArray[np.int64]:
    return colors.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


@cache
def _tables() -> tuple[NDArray[np.int64], ...]:
    """The colors of the numbers 0…255 as DAVIS and Pascal VOC have them, as our results do, and as they once did."""
    davis = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            for channel in range(3):
                davis[number, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    former = np.array([(0, 0, 0), *map(bright_color, range(255))], np.uint8)
    return _codes(davis), _codes(palette(256).numpy()), _codes(former)
