"""COCO's instances, as COCO's own files have them and as CVAT, Datumaro, Roboflow and Label Studio export them.

    annotations/instances_SPLIT.json with images/SPLIT, SPLIT or images      COCO, CVAT, Datumaro
    SPLIT/_annotations.coco.json beside its pictures                         Roboflow
    result.json with images                                                  Label Studio

The file is read as all annotation files are (`CocoTable`), but images may be named by paths of another machine. The
folder of the pictures is the first of the usual ones in which those of the file lie. Roboflow's placeholder, a class 0
without objects that the others have as `supercategory`, is left out.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.data.annotations import CocoTable, read_foreign
from pe_spatial.data.annotations.coco_columns import NO_MASK, TOO_SMALL
from pe_spatial.data.annotations.columns import Columns
from pe_spatial.data.annotations.entries import MARKS
from pe_spatial.data.formats.content import Instances
from pe_spatial.data.formats.place import Place, below, is_absolute, portable
from pe_spatial.data.formats.reading import Reading, Source

_ROBOFLOW = "_annotations.coco.json"
_LISTS = ("images", "annotations", "categories")
_PREFIX = "instances_"


def find(place: Place) -> list[Reading]:
    """The readings of a file or folder."""
    files: dict[str, str] = {}
    for name in place.meant(".json"):
        if has_instances(place.json_keys(name)):
            split = _split_of(name)
            files[name if split in files else split] = name
    if not files:
        return []
    by = {True: ", as Roboflow exports them", False: ""}[any(name.endswith(_ROBOFLOW) for name in files.values())]
    about, table = f"COCO instances{by}", partial(_table, place, files)
    return [Reading("coco", place.path, about, tuple(files), lambda split: _instances(table(split)), table=table)]


def has_instances(keys: Set[str]) -> bool:
    """Whether a JSON file with these keys near its ends is one of COCO's instances; others may stand in the middle."""
    return len({*_LISTS} & keys) > 1 and not {"segments_info", "caption", "["} & keys


def _split_of(name: str) -> str:
    path = PurePosixPath(name)
    if path.name == _ROBOFLOW:
        return path.parent.name or "all"
    stem = path.stem.removeprefix(_PREFIX)
    return "all" if stem in ("result", "instances", "annotations", "_annotations.coco", "default") else stem


def _table(place: Place, files: Mapping[str, str], split: str) -> Source:
    path = place.root / files[split]
    table = read_foreign(path)
    names = list(table.texts("image_names"))
    for field, is_missing in {
        "file_name": np.array([not name for name in names], bool),
        "height": table.columns["height"] == 0,
        "width": table.columns["width"] == 0,
    }.items():
        if is_missing.any():
            raise table.incomplete(int(is_missing.argmax()), field)
    root, found, present = _image_root(place, files[split], split, names)
    table, placeholder = _without_placeholder(_renamed(table, found))
    lines = [f"class left out, because it only groups the others: 1 ({placeholder})"] if placeholder else []
    if absent := [name for name in found if name not in present]:
        lines.append(f"pictures that are not in {root}: {len(absent)} of {len(found)} ({few(absent)})")
    ids = table.columns["id"]
    for what, values in (
        ("pictures that stand in the file more than once", found),
        ("annotation ids that are used more than once", ids[ids != -1].tolist()),
    ):
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            lines.append(f"{what}: {len(repeated)} ({few(repeated)})")
    masks = np.bincount(table.columns["shape"], minlength=4)
    without = int(masks[NO_MASK] + masks[TOO_SMALL])
    if 0 < without < masks.sum():
        lines.append(f"objects without mask, of which only the box is known: {without}")
    lines += table.conversions
    if table.tiny_polygons:
        lines.append(f"polygons of fewer than three points left out: {table.tiny_polygons}")
    return Source(table, root, tuple(lines))


def _renamed(table: CocoTable, names: Sequence[str]) -> CocoTable:
    """The table with other names of the images."""
    if names == list(table.texts("image_names")):
        return table
    texts = [name.encode() for name in names]
    columns: dict[str, NDArray[Any]] = {
        "image_names": np.frombuffer(b"".join(texts), np.uint8),
        "image_names_end": np.cumsum([len(text) for text in texts], dtype=np.int64),
    }
    return CocoTable(table.path, Columns({**table.columns, **columns}, table.columns.header, None))


def _without_placeholder(table: CocoTable) -> tuple[CocoTable, str]:
    """The table without Roboflow's group of classes, and the name of this group; empty if it has none."""
    parents = {category.get("supercategory") for category in table.categories}
    for row, category in enumerate(table.categories):
        is_group = category.get("supercategory") == "none" and category["name"] in parents
        if category["id"] == 0 and is_group and not (table.columns["category"] == row).any():
            of = table.columns["category"]
            columns = Columns(
                {**table.columns, "category": of - (of > row)},
                {**table.columns.header, "categories": [each for each in table.categories if each is not category]},
                None,
            )
            return CocoTable(table.path, columns), category["name"]
    return table, ""


def _instances(source: Source) -> Instances:
    """A table as lists. Objects are numbered anew where their ids are missing or not unique."""
    assert source.image_root is not None
    table, truth = source.table, source.table.truth()
    ids = table.columns["id"]
    keep_ids = bool((ids != -1).all()) and len(np.unique(ids)) == len(ids)
    for number, bits, annotation in zip(
        ids.tolist(), table.columns["marks"].tolist(), truth["annotations"], strict=True
    ):
        annotation.update({mark: 1 for bit, mark in enumerate(MARKS) if bits >> bit & 1})
        if keep_ids:
            annotation["id"] = number
    images = [{key: image[key] for key in ("id", "file_name", "height", "width")} for image in truth["images"]]
    categories = [{"id": category["id"], "name": category["name"]} for category in table.categories]
    return Instances(images, truth["annotations"], categories, source.image_root, str(table.path), source.notes)


# --- the folder of the pictures ---------------------------------------------------------------------------------------
def _image_root(place: Place, name: str, split: str, names: Sequence[str]) -> tuple[Path, list[str], set[str]]:
    """Where the pictures of a file lie.

    Args:
        place: What the user points at.
        name: Of the file, relative to its root.
        split: What the file holds.
        names: Of the pictures, as the file has them.

    Returns:
        The folder in which most of them lie, all names relative to it, and those that are there.

    Raises:
        AnnotationError: No picture lies in any of the usual folders.
    """
    path = place.root / name
    names = [portable(text) for text in names]
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
    return best, names, present


def _without_common_folder(names: Sequence[str]) -> list[str]:
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
            f"{path}: its pictures are in {few(sorted(hits), 5)} of {place.root}; keep one of these folders, or give a "
            "folder that contains only one"
        )
    return next(((place.root / folder, found) for folder, found in hits.items()), (path.parent, set()))
