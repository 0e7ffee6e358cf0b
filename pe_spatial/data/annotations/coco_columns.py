"""The columns of a COCO file, or of lists of its form: gathered in one pass, then joined by their ids.

M images, N annotations, K categories. Columns:

* images: `image_id`, `height`, `width` (0 = not known), `image_names` and `image_urls` (UTF-8), `image_extras` (JSON of
  LVIS's lists), `first` [M + 1] and `order` [N]: the annotations of image i are `order[first[i]:first[i + 1]]`, as they
  follow in the file.
* annotations: `id` (-1: none), `image` and `category` (rows), `box` [N, 4] as in the file (x, y, width, height), `area`
  (NaN: not given), `crowd`, `shape` (how the mask is given), `outside` (whether the box leaves the image), `is_first`
  (the first object of its category in its image), the parts `polygon_sizes`, `coordinates` and `runs` of the mask, and
  of `FOREIGN_COCO` alone `marks` (a bit for each of `MARKS`).
* `NAME_end` says where the part of each row in `NAME` ends.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.console import progress
from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.data.annotations.columns import ColumnWriter
from pe_spatial.data.annotations.entries import (
    COCO,
    FOREIGN_COCO,
    MARKS,
    Category,
    Conversions,
    ForeignObject,
    Image,
    Object,
    conversion_lines,
    decode,
)
from pe_spatial.data.annotations.json_files import read_members
from pe_spatial.data.annotations.linking import Ids, append_texts, check_categories, settle_ends
from pe_spatial.data.annotations.masks import Rle

LISTS = ("images", "annotations", "categories")
NO_ID = -1  # in `id`, where the file gives none
NO_MASK, POLYGONS, RLE, TOO_SMALL = range(4)  # values of `shape`; too small: no polygon has three points
INSIDE, PARTLY, NO_AREA = range(3)  # values of `outside`; no area: of the box, or of its part in the image
Kinds = Mapping[str, type[msgspec.Struct]]
_TOLERANCE = 1.0  # pixels by which a box may leave its image, for boxes are rounded
_BLOCK = 1 << 20  # rows that are joined at a time
_ENTRIES = 1 << 14  # of lists in memory that are converted at a time


def gather(source: Path, writer: ColumnWriter, kinds: Kinds = COCO) -> dict[str, Any]:
    """Fill the columns from a file; see `fill`.

    Args:
        source: The file.
        writer: Has no column yet.
        kinds: See `fill`.

    Returns:
        The header.

    Raises:
        AnnotationError: As `fill`, and for a file that is no COCO file.
        OSError: The file cannot be read.
    """
    with progress(f"reading {source.name}", source.stat().st_size >> 20, "MB") as bar:

        def pieces() -> Iterator[tuple[str, bytes]]:
            for key, text, position in read_members(source, LISTS, "COCO instances"):
                yield key, text
                bar.advance((position >> 20) - bar.done)

        return fill(str(source), writer, pieces(), kinds)


def gather_lists(source: str, writer: ColumnWriter, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Fill the columns from the lists of a COCO file that are in memory; see `fill`."""
    starts = ((key, start) for key in LISTS for start in range(0, len(lists[key]), _ENTRIES))
    return fill(source, writer, ((key, json.dumps(lists[key][n : n + _ENTRIES]).encode()) for key, n in starts))


def fill(source: str, writer: ColumnWriter, pieces: Iterable[tuple[str, bytes]], kinds: Kinds = COCO) -> dict[str, Any]:
    """Fill the columns.

    Args:
        source: What is read, for messages.
        writer: Has no column yet.
        pieces: Key and JSON of parts of the lists.
        kinds: `COCO`, or `FOREIGN_COCO`.

    Returns:
        The header: `categories` in the order of their rows; `tiny_polygons`, the number of polygons of fewer than
        three points, which are left out; and `conversions`, a line on each field of which values were converted.

    Raises:
        AnnotationError: A value that cannot be taken, an id that is used twice or refers to nothing; says which entry.
    """
    categories: list[Category] = []
    conversions: Conversions = {}
    tiny = 0
    append_images(writer, [])
    _append_objects(writer, [])
    for key, text in pieces:
        entries: list[Any] = decode(kinds[key], text, source, conversions)
        if key == "images":
            append_images(writer, entries)
        elif key == "annotations":
            tiny += _append_objects(writer, entries)
            if kinds is FOREIGN_COCO:
                writer.append("marks", list(map(_mark_bits, entries)), "u1")
        else:
            categories += entries
    categories.sort(key=lambda category: category.id)
    check_categories(source, categories)
    _join(source, writer, np.array([category.id for category in categories], np.int64))
    return {
        "categories": msgspec.to_builtins(categories),
        "tiny_polygons": tiny,
        "conversions": conversion_lines(conversions),
    }


# --- gathering --------------------------------------------------------------------------------------------------------
def append_images(writer: ColumnWriter, images: Sequence[Image]) -> None:
    """Add images to the columns that every table has of them."""
    writer.append("image_id", [image.id for image in images], "i8")
    writer.append("height", [image.height or 0 for image in images], "i4")
    writer.append("width", [image.width or 0 for image in images], "i4")
    append_texts(writer, "image_names", [(image.file_name or "").encode() for image in images])
    append_texts(writer, "image_urls", [(image.coco_url or "").encode() for image in images])
    append_texts(writer, "image_extras", [_extras(image) for image in images])


def _extras(image: Image) -> bytes:
    if image.neg_category_ids is None and image.not_exhaustive_category_ids is None:
        return b""
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    return msgspec.json.encode({key: getattr(image, key) or [] for key in keys})


def _append_objects(writer: ColumnWriter, objects: Sequence[Object]) -> int:
    """Add annotations; returns how many polygons of fewer than three points were left out."""
    writer.append("id", [item.id if item.id is not None else NO_ID for item in objects], "i8")
    writer.append("image_of", [item.image_id for item in objects], "i8")
    writer.append("category_of", [item.category_id for item in objects], "i8")
    writer.append("box", [item.bbox for item in objects], "f8", width=4)
    writer.append("area", [np.nan if item.area is None else item.area for item in objects], "f8")
    writer.append("crowd", [item.iscrowd for item in objects], "?")
    masks = [item.segmentation for item in objects]
    polygons = [[p for p in mask if len(p) > 5] if isinstance(mask, list) else [] for mask in masks]
    given = [len(mask) if isinstance(mask, list) else 0 for mask in masks]
    coordinates = np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64)
    sizes = [sum(map(len, item)) for item in polygons]
    runs = [msgspec.json.encode(mask) if isinstance(mask, Rle) else b"" for mask in masks]
    writer.append("shape", list(map(_shape, masks, polygons)), "u1")
    writer.append("polygon_sizes", [len(p) for item in polygons for p in item], "i4")
    writer.append("polygon_sizes_size", list(map(len, polygons)), "i4")
    writer.append("coordinates", coordinates, "f8")
    writer.append("coordinates_size", sizes, "i4")
    append_texts(writer, "runs", runs)
    writer.append("extent", _extents(masks, coordinates, np.array(sizes, np.int64)), "f8", width=4)
    return sum(given) - sum(map(len, polygons))


def _mark_bits(item: ForeignObject) -> int:
    if item.attributes is item.difficult is item.truncated is item.occluded is None:  # nearly always: the fast way
        return 0
    places = [item] if item.attributes is None else [item, item.attributes]
    return sum(1 << bit for bit, mark in enumerate(MARKS) if any(getattr(place, mark) in (1, "1") for place in places))


def _shape(mask: Any, polygons: Sequence[Any]) -> int:
    if mask is None:
        return NO_MASK
    return RLE if isinstance(mask, Rle) else POLYGONS if polygons else TOO_SMALL


def _extents(masks: Sequence[Any], coordinates: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Least and greatest x and y of each mask [N, 4]; of an RLE 0, 0 and the width and height of its image."""
    extents = np.zeros((len(masks), 4))
    drawn = np.flatnonzero(sizes)
    if len(drawn):
        points = coordinates.reshape(-1, 2)
        starts = (np.cumsum(sizes) - sizes)[drawn] // 2
        extents[drawn, :2] = np.minimum.reduceat(points, starts)
        extents[drawn, 2:] = np.maximum.reduceat(points, starts)
    for row, mask in enumerate(masks):
        if isinstance(mask, Rle):
            extents[row, 2:] = mask.size[::-1]
    return extents


# --- joining ----------------------------------------------------------------------------------------------------------
def _join(source: str, writer: ColumnWriter, category_ids: NDArray[np.int64]) -> None:
    """Replace ids by rows, and settle what takes both images and annotations to know."""
    images = Ids(source, "image", writer.column("image_id"))
    categories = Ids(source, "category", category_ids)
    sides = np.stack([writer.column("width"), writer.column("height")], 1)  # [M, 2]
    count = len(writer.column("id"))
    for start in range(0, max(count, 1), _BLOCK):  # once if there is none, for the columns to be there
        block = slice(start, start + _BLOCK)
        rows = images.rows_of(writer.column("image_of"), block)
        _check_masks(source, writer, block, np.tile(sides[rows], 2))
        writer.append("image", rows, "i4")
        writer.append("category", categories.rows_of(writer.column("category_of"), block), "i4")
        writer.append("outside", _outside(writer.column("box")[block], sides[rows]), "u1")
    _group(writer, len(sides), max(len(category_ids), 1))
    settle_ends(writer, "image_names", "image_urls", "image_extras", "polygon_sizes", "coordinates", "runs")
    for name in ("image_of", "category_of", "extent"):
        writer.drop(name)


def _check_masks(source: str, writer: ColumnWriter, block: slice, sides: NDArray[np.int32]) -> None:
    """Refuse RLEs of another size than their image, and polygons that reach further beyond it than its own size.

    Args:
        source: What is read, for messages.
        writer: Has the columns.
        block: The rows to check.
        sides: Width, height, width, height of the image of each [n, 4]; 0 where it is not known.
    """
    extent, shape = writer.column("extent")[block], writer.column("shape")[block]
    is_known = (sides > 0).all(1)
    wrong = (shape == RLE) & is_known & (extent[:, 2:] != sides[:, 2:]).any(1)
    far = (shape == POLYGONS) & is_known & ((extent < -sides) | (extent > 2 * sides)).any(1)
    for rows, what in ((wrong, "an RLE for an image of"), (far, "polygons that reach to x, y, x, y =")):
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            reach = extent[row, 2:].astype(int) if rows is wrong else extent[row]
            raise AnnotationError(
                f"{source}: annotation {writer.column('id')[block][row]} has {what} {few(reach.tolist(), 4)}, but its "
                f"image {writer.column('image_of')[block][row]} has width and height {few(sides[row, :2].tolist())}; "
                f"{int(rows.sum())} annotations are like this"
            )


def _outside(boxes: NDArray[np.float64], sides: NDArray[np.int32]) -> NDArray[np.uint8]:
    """How boxes [n, 4] (x, y, width, height) lie in images of some sides [n, 2] (width, height; 0: not known)."""
    limits = np.where(sides > 0, sides, np.inf)
    near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    is_empty = ~(np.minimum(far, limits) > np.maximum(near, 0)).all(1)
    leaves = ((near < -_TOLERANCE) | (far > limits + _TOLERANCE)).any(1)
    return np.select([is_empty, leaves], [NO_AREA, PARTLY], INSIDE).astype(np.uint8)


def _group(writer: ColumnWriter, image_count: int, category_count: int) -> None:
    """The annotations of each image, and the first object of each category in it."""
    images, count = writer.column("image"), len(writer.column("id"))
    order = np.argsort(images, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(images, minlength=image_count))])
    is_first = np.zeros(count, bool)
    is_object = ~writer.column("crowd") & (writer.column("outside") != NO_AREA)
    position = 0
    while position < count:  # whole images, about a block at a time
        last = np.searchsorted(first, position + _BLOCK, side="right") - 1
        end = max(int(first[last]), int(first[np.searchsorted(first, position, side="right")]))
        rows = order[position:end]
        rows = rows[is_object[rows]]
        pairs = images[rows].astype(np.int64) * category_count + writer.column("category")[rows]
        is_first[rows[np.unique(pairs, return_index=True)[1]]] = True
        position = end
    writer.append("order", order, "i4" if count < 2**31 else "i8")
    writer.append("first", first, "i8")
    writer.append("is_first", is_first, "?")
