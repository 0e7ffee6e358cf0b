"""LabelMe: a JSON file per picture, with shapes.

Polygons and rectangles are taken as they are, circles as polygons of 64 corners, and masks pixel by pixel. Shapes of
one label and one `group_id` are parts of one object, as LabelMe's own converter has it. Points, lines and strips of
lines have no area: they are refused, and so is every other shape. The picture is the one that `imagePath` names,
relative to the file, or the one that is called like the file; `imageData`, a second copy of it, is not read. Classes
stand in `labels.txt`; without it they are all labels that occur, sorted.
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError
from pe_spatial.common.pictures import read_image
from pe_spatial.data.annotations import read_annotations
from pe_spatial.data.formats.content import Box, Form, Instances, InstancesBuilder, Points, Polygons, shown
from pe_spatial.data.formats.exact import from_json
from pe_spatial.data.formats.masks import Mask
from pe_spatial.data.formats.place import Place, read_names, require_size, split_names
from pe_spatial.data.formats.reading import Reading

_CORNERS = 64  # of a circle
_NO_AREA = ("point", "points", "line", "linestrip")
_KNOWN = ("polygon", "rectangle", "circle", "mask")
_NO_NAMES = ("__ignore__", "_background_")  # how LabelMe's labels.txt begins

Shape = Mapping[str, Any]


def find(place: Place) -> list[Reading]:
    """The readings of a file or folder."""
    files = [name for name in place.meant(".json") if "shapes" in place.json_keys(name)]
    if not files:
        return []
    splits = split_names(files)
    return [Reading("labelme", place.path, "LabelMe", tuple(splits), partial(_load, place, splits, files))]


def _load(place: Place, splits: Mapping[str, Sequence[str]], files: Sequence[str], split: str) -> Instances:
    contents = {name: _content(place, name) for name in track(files, "reading", unit="files")}
    builder = InstancesBuilder(f"{place.path} ({split})", place.root, _classes(place, contents))
    used: dict[str, str] = {}
    for name in splits[split]:
        where, content = str(place.root / name), contents[name]
        picture = _picture(place, name, content, where)
        if picture is None:
            builder.note("files without picture, left out", name)
            continue
        if picture in used:
            raise AnnotationError(
                f"{where}: its picture {picture} is also the picture of {used[picture]}; correct imagePath"
            )
        used[picture] = name
        recorded = [content.get(key) or 0 for key in ("imageHeight", "imageWidth")]
        if not all(isinstance(side, int) for side in recorded):
            raise AnnotationError(f"{where}: imageHeight and imageWidth are {shown(recorded)}, not whole numbers")
        size = require_size((recorded[0], recorded[1]), place.root / picture, where)
        image = builder.add_image(picture, size)
        for label, shape, entry in _objects(content["shapes"], size, where, builder):
            builder.add_object(image, label, shape, entry)
    if len(splits) == 1:
        for picture in place.pictures:
            if picture not in used:
                builder.note("pictures without JSON file, left out", picture)
    return builder.build(f"images/{split}", f"{split}/images", split, "images")


def _content(place: Place, name: str) -> dict[str, Any]:
    path = place.root / name
    content = read_annotations(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise AnnotationError(f"{path}: shapes is not a list; save the file with LabelMe again")
    for number, shape in enumerate(shapes, start=1):
        if not isinstance(shape.get("label"), str) or not shape["label"].strip():
            raise AnnotationError(f"{path}: shape {number}: label is {shown(shape.get('label'))}; it must be a name")
    return {key: value for key, value in content.items() if key != "imageData"}


def _classes(place: Place, contents: Mapping[str, dict[str, Any]]) -> list[str]:
    if "labels.txt" in place.files:
        return [name for name in read_names(place.root / "labels.txt") if name not in _NO_NAMES]
    return sorted({shape["label"] for content in contents.values() for shape in content["shapes"]})


def _picture(place: Place, name: str, content: Mapping[str, Any], where: str) -> str | None:
    folder, stem = str(PurePosixPath(name).parent), str(PurePosixPath(name).with_suffix(""))
    named = content.get("imagePath")
    found = place.picture(named, [folder, "."], where) if isinstance(named, str) and named.strip() else None
    alike = place.picture_of_stem(stem, where) if found is None else None
    return found or alike


# --- shapes -----------------------------------------------------------------------------------------------------------
def _objects(
    shapes: Sequence[Shape], size: tuple[int, int], where: str, builder: InstancesBuilder
) -> list[tuple[str, Form, str]]:
    """Class, form and place in the file of every object: a shape, or the shapes of one label and group."""
    found: dict[object, list[tuple[str, Form, str]]] = {}
    for number, shape in enumerate(shapes, start=1):
        entry = f"{where}: shape {number} ({shape['label']})"
        kind = shape.get("shape_type") or "polygon"
        if kind == "circle":
            builder.note("circles taken as polygons of 64 corners", entry)
        group = shape.get("group_id")
        key = number if group is None else (shape["label"], str(group))
        found.setdefault(key, []).append((shape["label"], _form(kind, shape, size, entry), entry))
    return [_joined(parts) for parts in found.values()]


def _joined(parts: list[tuple[str, Form, str]]) -> tuple[str, Form, str]:
    if len(parts) == 1:
        return parts[0]
    polygons: list[Points] = []
    for label, form, entry in parts:
        if not isinstance(form, Polygons):
            raise AnnotationError(
                f"{entry}: only polygons can share a group_id, because they become one object {label!r}; draw polygons "
                "or remove the group_id"
            )
        polygons += form.parts
    return parts[0][0], Polygons(polygons), parts[0][2]


def _form(kind: str, shape: Shape, size: tuple[int, int], entry: str) -> Form:
    if kind in _NO_AREA:
        raise AnnotationError(
            f"{entry}: a {kind} has no area, but an object to detect needs one; draw a {_KNOWN[0]}, or delete it"
        )
    if kind not in _KNOWN:
        raise AnnotationError(f"{entry}: shape_type {shown(kind)} is not one of {', '.join(_KNOWN)}; draw one of these")
    points = _points(shape.get("points"), entry)
    if kind == "polygon":
        if len(points) < 3:
            raise AnnotationError(
                f"{entry}: a polygon of {len(points)} points; it needs three, so correct or delete it"
            )
        return Polygons([points])
    if kind == "rectangle" and len(points) == 4 and all(len({*axis}) == 2 for axis in zip(*points, strict=True)):
        points = [(min(x for x, _ in points), min(y for _, y in points))] + [
            (max(x for x, _ in points), max(y for _, y in points))
        ]
    if len(points) != 2:
        raise AnnotationError(
            f"{entry}: a {kind} of {len(points)} points; it needs two points, or the four corners of an upright "
            f"rectangle"
        )
    (x1, y1), (x2, y2) = points
    if kind == "circle":
        return Polygons([_circle(x1, y1, math.dist((x1, y1), (x2, y2)), entry)])
    left, top, width, height = min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)
    if not width or not height:
        raise AnnotationError(f"{entry}: a {kind} of {width} × {height} pixels; correct or delete it")
    return Box(left, top, width, height) if kind == "rectangle" else _mask(shape, (int(left), int(top)), size, entry)


def _points(value: object, entry: str) -> list[tuple[Decimal, Decimal]]:
    try:
        return [(from_json(x), from_json(y)) for x, y in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise AnnotationError(f"{entry}: points are not [[x, y], …] of finite numbers; correct or delete it") from None


def _circle(x: Decimal, y: Decimal, radius: float, entry: str) -> Points:
    if not radius:
        raise AnnotationError(f"{entry}: a circle without radius; correct or delete it")
    angles = [2 * math.pi * step / _CORNERS for step in range(_CORNERS)]
    return [(x + Decimal(radius * math.cos(a)), y + Decimal(radius * math.sin(a))) for a in angles]


def _mask(shape: Shape, corner: tuple[int, int], size: tuple[int, int], entry: str) -> Mask:
    """The mask of a shape, a PNG in base64 whose upper left pixel is at `corner` (x, y)."""
    try:
        content = base64.b64decode(shape.get("mask") or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise AnnotationError(f"{entry}: its mask is not base64; draw it again") from None
    if not content:
        raise AnnotationError(f"{entry}: it has no mask; draw it again")
    part = read_image(content)[0] > 0  # [h, w]
    x, y = corner
    mask = torch.zeros(size, dtype=torch.bool)
    target = mask[max(y, 0) : y + part.shape[0], max(x, 0) : x + part.shape[1]]
    if target.shape != part.shape or not part.any():
        raise AnnotationError(f"{entry}: its mask is empty or outside the picture; draw it again")
    target.copy_(part)
    return Mask(mask)
