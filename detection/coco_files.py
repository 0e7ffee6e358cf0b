"""Annotation files in COCO's format: reading them, and saying what is wrong with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import read_annotations

_LISTS = ("images", "annotations", "categories")
_NUMBER = (int, float)
# kinds of the fields that may be there: what each must be, and in words
_KINDS: dict[str, dict[str, tuple[tuple[type, ...], str]]] = {
    "images": {
        "file_name": ((str,), "a text"),
        "coco_url": ((str,), "a text"),
        "height": (_NUMBER, "a number"),
        "width": (_NUMBER, "a number"),
    },
    "annotations": {
        "iscrowd": ((int, NoneType), "0 or 1"),
        "area": ((*_NUMBER, NoneType), "a number"),
        "segmentation": ((list, dict, NoneType), "a list of polygons or a run-length code"),
    },
    "categories": {"name": ((str,), "a text, in quotes"), "frequency": ((str,), "a text")},
}
_FARTHEST = 1e6  # pixels; a rasterizer that is given more walks through them


@dataclass(frozen=True)
class CocoFile:
    """The three lists of a COCO file, as they stand in it; ids are unique and refer to entries that exist."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


def read_coco(path: str | Path) -> CocoFile:
    """Read and check a file.

    Raises:
        AnnotationError: no file; not JSON or not COCO (says what was found); an id that is used twice, is no integer,
            or refers to an image or a category that is not in the file; a box that is not four finite numbers; a field
            or a polygon of another kind.
    """
    content = read_annotations(path)
    if not isinstance(content, dict):
        kind = "detection results or a bare list" if isinstance(content, list) else type(content).__name__
        raise AnnotationError(f"{path}: {kind} instead of a COCO dictionary with {', '.join(_LISTS)}")
    missing = [key for key in _LISTS if not isinstance(content.get(key), list)]
    if missing:
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise AnnotationError(f"{path}: not COCO instances: no list of {' and '.join(missing)} (it has: {found})")
    file = CocoFile(*(content[key] for key in _LISTS))
    for key in _LISTS:
        _check_kinds(path, key, content[key])
    images = _ids(path, "image", file.images)
    categories = _ids(path, "category", file.categories)
    _check_references(path, "image_id", file.annotations, images)
    _check_references(path, "category_id", file.annotations, categories)
    for annotation in file.annotations:
        if not _is_box(annotation.get("bbox")):
            raise AnnotationError(
                f"{path}: annotation {annotation.get('id')}: bbox is {annotation.get('bbox')!r}, but must be four "
                "finite numbers [x, y, width, height]"
            )
        if isinstance(annotation.get("segmentation"), list):
            _check_polygons(path, annotation)
    return file


def _check_kinds(path: str | Path, key: str, entries: Sequence[Any]) -> None:
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise AnnotationError(f"{path}: {key}[{number}] is {str(entry)[:40]!r}, not an object with fields")
        if key == "categories" and "name" not in entry:
            raise AnnotationError(f"{path}: {key}[{number}] (id {entry.get('id')!r}) has no name; give it one")
        for field, (kinds, words) in _KINDS[key].items():
            if field in entry and not isinstance(entry[field], kinds):
                raise AnnotationError(
                    f"{path}: {key}[{number}] (id {entry.get('id')!r}): {field} is {str(entry[field])[:40]!r}, but "
                    f"must be {words}"
                )
        sides = [entry[side] for side in ("height", "width") if side in entry] if key == "images" else []
        if not all(0 < side < _FARTHEST for side in sides):
            raise AnnotationError(f"{path}: image {entry.get('id')!r}: height and width are {sides}, no size in pixels")


def _check_polygons(path: str | Path, annotation: Mapping[str, Any]) -> None:
    for polygon in annotation["segmentation"]:
        try:
            near = not polygon or -_FARTHEST < min(polygon) <= max(polygon) < _FARTHEST
            if isinstance(polygon, list) and near and (total := sum(polygon)) - total == 0:  # nan - nan is nan
                continue
        except TypeError:
            pass
        raise AnnotationError(
            f"{path}: annotation {annotation.get('id')}: segmentation has {str(polygon)[:40]!r} in the place of a "
            "polygon, a list of finite numbers [x, y, x, y, …] in pixels; a run-length code stands alone, in no list"
        )


def _ids(path: str | Path, kind: str, entries: Sequence[Mapping[str, Any]]) -> set[int]:
    ids = [entry.get("id") for entry in entries]
    wrong = next((i for i in ids if not isinstance(i, int) or isinstance(i, bool)), 0)
    if wrong != 0:
        raise AnnotationError(f"{path}: a {kind} has the id {wrong!r}; COCO ids are integers")
    number, count = Counter(ids).most_common(1)[0] if ids else (0, 0)
    if count > 1:
        raise AnnotationError(f"{path}: {kind} id {number} is used {count} times; ids must be unique")
    return {i for i in ids if i is not None}


def _check_references(path: str | Path, key: str, annotations: Sequence[Mapping[str, Any]], known: set[int]) -> None:
    ids = [annotation.get(key) for annotation in annotations]
    lost = [
        annotation
        for annotation, number in zip(annotations, ids, strict=True)
        if not isinstance(number, int) or number not in known
    ]
    if lost:
        raise AnnotationError(
            f"{path}: {len(lost)} of {len(annotations)} annotations have a {key} that is not in the file, "
            f"for example {lost[0].get(key)!r} in annotation {lost[0].get('id')}; known ids: {_range(known)}"
        )


def _range(ids: set[int]) -> str:
    return f"{min(ids)}…{max(ids)} ({len(ids)} ids)" if ids else "none"


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(isinstance(v, int | float) and v - v == 0 for v in box)  # inf - inf and nan - nan are nan
    )
