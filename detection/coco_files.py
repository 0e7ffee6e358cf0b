"""Annotation files in COCO's format: reading them, and saying what is wrong with them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import read_annotations

_LISTS = ("images", "annotations", "categories")


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
            or refers to an image or a category that is not in the file; a box that is not four finite numbers.
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
    return file


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
    lost = [annotation for annotation in annotations if annotation.get(key) not in known]
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
