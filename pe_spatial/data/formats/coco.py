"""COCO's instances, as COCO's own files have them and as CVAT, Datumaro, Roboflow and Label Studio export them.

    annotations/instances_SPLIT.json with images/SPLIT, SPLIT or images      COCO, CVAT, Datumaro
    SPLIT/_annotations.coco.json beside its pictures                         Roboflow
    result.json with images                                                  Label Studio

The folder of the pictures is the first of the usual ones in which those of the file lie. A `segmentation` that is
empty is no mask. Roboflow's placeholder, a class 0 without objects that the others have as `supercategory`, is left
out.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.data.annotations import read_annotations
from pe_spatial.data.formats.content import Instances, Record, corners_of, polygon_area, require_distinct, shown
from pe_spatial.data.formats.place import Place, below, is_absolute, portable
from pe_spatial.data.formats.reading import Reading

_ROBOFLOW = "_annotations.coco.json"
_LISTS = ("images", "annotations", "categories")
_LIMIT = 1e9  # of coordinates, in pixels
_PREFIX = "instances_"
_MARKS = ("difficult", "truncated", "occluded")


def find(place: Place) -> list[Reading]:
    """The readings of a file or folder."""
    files: dict[str, str] = {}
    for name in place.meant(".json"):
        keys = place.json_keys(name)
        if len({*_LISTS} & keys) > 1 and not {"segments_info", "caption", "["} & keys:  # others may stand in the middle
            split = _split_of(name)
            files[name if split in files else split] = name
    if not files:
        return []
    by = {True: ", as Roboflow exports them", False: ""}[any(name.endswith(_ROBOFLOW) for name in files.values())]
    return [Reading("coco", place.path, f"COCO instances{by}", tuple(files), partial(_load, place, files))]


def _split_of(name: str) -> str:
    path = PurePosixPath(name)
    if path.name == _ROBOFLOW:
        return path.parent.name or "all"
    stem = path.stem.removeprefix(_PREFIX)
    return "all" if stem in ("result", "instances", "annotations", "_annotations.coco", "default") else stem


def _load(place: Place, files: Mapping[str, str], split: str) -> Instances:
    name = files[split]
    path = place.root / name
    content = read_annotations(path)
    lists = [content.get(key) if isinstance(content, dict) else None for key in _LISTS]
    for key, entries in zip(_LISTS, lists, strict=True):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise AnnotationError(f"{path}: {key} is no list of entries {{…}}; export COCO instances again")
    images, annotations, categories = (list(entries) for entries in lists if entries is not None)
    notes: list[str] = []
    categories = _categories(categories, annotations, path, notes)
    images = [_image(entry, number, path) for number, entry in enumerate(images, start=1)]
    _require_unique(images, "image", path)
    _require_unique(categories, "category", path)
    root, found = _image_root(place, name, split, images)
    image_ids, category_ids = ({entry["id"] for entry in entries} for entries in (images, categories))
    objects = [_annotation(entry, n, path, image_ids, category_ids) for n, entry in enumerate(annotations, start=1)]
    if any(entry["id"] is None for entry in objects):
        objects = [{**entry, "id": number} for number, entry in enumerate(objects, start=1)]
    _require_unique(objects, "annotation", path)
    absent = [entry["file_name"] for entry in images if entry["file_name"] not in found]
    if absent:
        notes.append(f"pictures that are not in {root}: {len(absent)} of {len(images)} ({few(absent)})")
    twice = [name for name, count in Counter(entry["file_name"] for entry in images).items() if count > 1]
    if twice:
        notes.append(f"pictures that stand in the file more than once: {len(twice)} ({few(twice)})")
    empty = sum("segmentation" not in entry for entry in objects)
    if 0 < empty < len(objects):
        notes.append(f"objects without mask, of which only the box is known: {empty}")
    return Instances(images, objects, categories, root, str(path), tuple(notes))


# --- entries ----------------------------------------------------------------------------------------------------------
def _categories(
    categories: Sequence[Record], annotations: Sequence[Record], path: Path, notes: list[str]
) -> list[Record]:
    counts = Counter(str(entry.get("category_id")) for entry in annotations)
    parents = {entry.get("supercategory") for entry in categories}
    kept = []
    for number, entry in enumerate(categories, start=1):
        where = f"{path}: category {number}"
        name = entry.get("name")
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise AnnotationError(f"{where}: name is {shown(name)}; it must be a text")
        if entry.get("id") == 0 and not counts["0"] and entry.get("supercategory") == "none" and name in parents:
            notes.append(f"class left out, for it only groups the others: 1 ({name})")
            continue
        kept.append({"id": _id(entry.get("id"), "id", where), "name": str(name)})
    require_distinct((str(entry["name"]) for entry in kept), str(path))
    return sorted(kept, key=lambda entry: entry["id"])


def _image(entry: Record, number: int, path: Path) -> Record:
    where = f"{path}: image {number}"
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f"{where}: file_name is {shown(name)}; it must name the picture")
    size = {}
    for key in ("height", "width"):
        side = _id(entry.get(key), key, where)
        if side < 1:
            raise AnnotationError(f"{where} ({name}): {key} is {side}; it must be at least 1")
        size[key] = side
    return {"id": _id(entry.get("id"), "id", where), "file_name": portable(name), **size}


def _id(value: object, key: str, where: str) -> int:
    """A whole number, also as a text or a float."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(value)
        number = int(value)
        if isinstance(value, float) and number != value:
            raise ValueError(value)
    except (ValueError, OverflowError):
        raise AnnotationError(f"{where}: {key} is {shown(value)}; it must be a whole number") from None
    return number


def _annotation(entry: Record, number: int, path: Path, image_ids: set[int], category_ids: set[int]) -> Record:
    where = f"{path}: annotation {entry.get('id', number)}"
    references = {key: _id(entry.get(key), key, where) for key in ("image_id", "category_id")}
    for (key, value), known in zip(references.items(), (image_ids, category_ids), strict=True):
        if value not in known:
            raise AnnotationError(f"{where}: {key} {value} is not in the file; known: {few(sorted(known), 5)}")
    crowd = entry.get("iscrowd") or 0
    if str(crowd) not in ("0", "1", "True", "False"):
        raise AnnotationError(f"{where}: iscrowd is {shown(crowd)}; it must be 0 or 1")
    mask = _segmentation(entry.get("segmentation"), where)
    box = entry.get("bbox")
    try:
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError
        box = [_finite(value) for value in box]
    except ValueError:
        raise AnnotationError(
            f"{where}: bbox is {shown(box)}, but must be four finite numbers [x, y, width, height]"
        ) from None
    area = entry.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or area - area != 0:
        area = sum(polygon_area(corners_of(part)) for part in mask) if isinstance(mask, list) else box[2] * box[3]
    attributes = entry.get("attributes")
    marks = {**(attributes if isinstance(attributes, dict) else {}), **entry}
    return {
        "id": _id(entry["id"], "id", where) if "id" in entry else None,
        **references,
        "bbox": box,
        "area": float(area),
        "iscrowd": int(str(crowd) in ("1", "True")),
        **({} if mask is None else {"segmentation": mask}),
        **{mark: 1 for mark in _MARKS if marks.get(mark) in (1, "1", True)},
    }


def _segmentation(value: Any, where: str) -> list[list[float]] | Record | None:  # noqa: ANN401 - whatever JSON holds
    """Polygons or an RLE; None where there is none."""
    if isinstance(value, dict) and {"size", "counts"} <= value.keys():
        return value
    if value in (None, [], [[]], {}):
        return None
    try:
        if not isinstance(value, list):
            raise ValueError
        parts = value if isinstance(value[0], list) else [value]
        polygons = [[_finite(number) for number in part] for part in parts]
    except (TypeError, ValueError):
        raise AnnotationError(
            f"{where}: segmentation {shown(value)} is neither finite polygons [[x, y, …], …] nor an RLE"
        ) from None
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise AnnotationError(f"{where}: a polygon of {len(polygon)} numbers; it needs x and y of three points")
    return polygons


def _finite(value: object) -> float:
    """A number of a file.

    Raises:
        ValueError: It is none, or not finite.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not -_LIMIT < value < _LIMIT:
        raise ValueError(value)
    return float(value)


def _require_unique(entries: Sequence[Record], kind: str, path: Path) -> None:
    number, count = Counter(entry["id"] for entry in entries).most_common(1)[0] if entries else (0, 0)
    if count > 1:
        raise AnnotationError(f"{path}: {kind} id {number} is used {count} times; ids must be unique")


# --- the folder of the pictures ---------------------------------------------------------------------------------------
def _image_root(place: Place, name: str, split: str, images: list[Record]) -> tuple[Path, set[str]]:
    """The folder in which most pictures of a file lie, and those; names of other machines become their last part.

    Raises:
        AnnotationError: No picture lies in any of the usual folders.
    """
    path = place.root / name
    names = [entry["file_name"] for entry in images]
    if any(is_absolute(text) for text in names):
        names = _without_common_folder(names)
    names = [below("", text, f"{path}: file_name") for text in names]
    parent = path.parent
    parents = [parent, parent.parent] if parent.name in ("annotations", "labels") or place.is_file else [parent]
    stem = PurePosixPath(name).stem.removeprefix(_PREFIX)
    ends = (f"images/{stem}", f"images/{split}", stem, split, "images/default", "images", "JPEGImages", "")
    folders = list(dict.fromkeys(folder / end for folder in parents for end in ends))
    best, present = parent, set[str]()
    for folder in folders:
        found = {text for text in names if (folder / text).is_file()} if folder.is_dir() else set()
        if len(found) > len(present):
            best, present = folder, found
        if found and len(found) == len(set(names)):
            break
    if names and not present:
        best, present = _search(place, set(names), path)
    if names and not present:
        tried = few((str(folder) for folder in folders if folder.is_dir()), 6)
        raise AnnotationError(
            f"{path}: no picture such as {names[0]} in {tried}; put the pictures into {parent}/images"
        )
    for entry, text in zip(images, names, strict=True):
        entry["file_name"] = text
    return best, present


def _without_common_folder(names: list[str]) -> list[str]:
    """Paths of another machine from the deepest folder that holds them all."""
    parts = [[part for part in text.split("/") if part not in ("", ".", "..")] for text in names]
    folders = [entry[:-1] for entry in parts]
    same = len(os.path.commonprefix(folders))  # of lists, as of texts
    return ["/".join(entry[same:]) for entry in parts]


def _search(place: Place, names: set[str], path: Path) -> tuple[Path, set[str]]:
    """The only folder of the place in which pictures of these names lie, and those.

    Raises:
        AnnotationError: There are several.
    """
    hits: dict[str, set[str]] = {}
    for picture in place.pictures:
        folder = PurePosixPath(picture).parent
        for end in (folder, *folder.parents):
            name = str(PurePosixPath(picture).relative_to(end))
            if name in names:
                hits.setdefault(str(end), set()).add(name)
    if len(hits) > 1:
        raise AnnotationError(
            f"{path}: its pictures lie in {few(sorted(hits), 5)} of {place.root}; leave one of them, or give a folder "
            "that holds only one"
        )
    return next(((place.root / folder, found) for folder, found in hits.items()), (path.parent, set()))
