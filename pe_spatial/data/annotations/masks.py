"""The masks of annotation files in one form: polygons as flat lists, or one run-length encoding."""

from collections.abc import Sequence
from typing import Any

import msgspec
from pycocotools import mask as coco_mask

from pe_spatial.data.annotations import values
from pe_spatial.data.coco_masks import check_rle

Polygons = list[list[float]]


class Rle(msgspec.Struct, frozen=True):
    """A run-length encoding by COCO: columns first, beginning with zeros.

    Args:
        size: (H, W).
        counts: Lengths of the runs, or these compressed.
    """

    size: tuple[int, int]
    counts: list[int] | str


def normalize_mask(value: Any) -> Polygons | Rle | None:
    """A mask in any form that tools write; None where there is none: null, `[]`, `[[]]`, an empty text.

    Polygons may be flat, [x, y, …], several of these, points [x, y] or {x, y}, or several lists of points. An RLE may
    stand in a list; several are united.

    Raises:
        ValueError: Anything else.
    """
    if isinstance(value, dict):
        return _normalize_rle(value)
    if value is None or value == "":
        return None
    if not isinstance(value, list):
        raise ValueError(f"{values.shown(value)}, but must be polygons or an RLE")
    if value and all(map(_is_rle, value)):
        return _united([_normalize_rle(item) for item in value])
    if _is_polygon(value):
        value = [value]
    return [_normalize_polygon(item) for item in value if item not in (None, [])] or None


def _is_polygon(items: Sequence[Any]) -> bool:
    """Whether a list is one polygon, and not a list of them."""
    return bool(items) and (not isinstance(items[0], list) or _is_point(items[0]))


def _is_rle(item: Any) -> bool:
    return isinstance(item, dict) and "counts" in item


def _is_point(item: Any) -> bool:
    if isinstance(item, dict):
        return item.keys() >= {"x", "y"}
    return isinstance(item, list) and len(item) == 2 and not any(isinstance(part, list | dict) for part in item)


def _normalize_polygon(items: Any) -> list[float]:
    if _is_rle(items) or isinstance(items, list) and any(map(_is_rle, items)):
        raise ValueError("has RLEs among polygons, or in lists of lists; give one RLE, or polygons alone")
    if not isinstance(items, list):
        raise ValueError(f"holds {values.shown(items)}, but a polygon is a list [x, y, x, y, …]")
    if all(map(_is_point, items)):
        items = [part for item in items for part in ((item["x"], item["y"]) if isinstance(item, dict) else item)]
    try:
        polygon = [values.number(item) for item in items]
    except ValueError as error:
        raise ValueError(f"has the coordinate {error}") from None
    if len(polygon) % 2:
        raise ValueError(f"has a polygon with {len(polygon)} coordinates; it needs an even number, x and y in turn")
    return polygon


def _normalize_rle(value: Any) -> Rle:
    if not isinstance(value, dict) or "counts" not in value or "size" not in value:
        raise ValueError(f"{values.shown(value)}, but an RLE is {{size: [height, width], counts: …}}")
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"has an RLE of the size {values.shown(size)}, but it is [height, width]")
    try:
        if not isinstance(counts, str):
            counts = [values.integer(count) for count in counts]
        rle = Rle((values.side(size[0]), values.side(size[1])), counts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"has an RLE with {error}") from None
    try:
        check_rle(as_coco(rle), rle.size)
    except ValueError as error:
        raise ValueError(f"has {error}") from None
    return rle


def _united(rles: Sequence[Rle]) -> Rle:
    if len(rles) == 1:
        return rles[0]
    if len({rle.size for rle in rles}) > 1:
        raise ValueError(
            f"has RLEs of the sizes {[list(rle.size) for rle in rles]}; all must have the size of the image"
        )
    height, width = rles[0].size
    plain = [
        coco_mask.frPyObjects(as_coco(rle), height, width) if isinstance(rle.counts, list) else as_coco(rle)
        for rle in rles
    ]
    return Rle((height, width), coco_mask.merge(plain)["counts"].decode("ascii"))


def as_coco(rle: Rle) -> dict[str, Any]:
    """The form in files: {size, counts}."""
    return {"size": list(rle.size), "counts": rle.counts}
