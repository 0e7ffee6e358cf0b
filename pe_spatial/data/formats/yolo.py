"""YOLO: a text file per picture, a line per object, with fractions of the picture's width and height.

    data.yaml        path: .                       # the root; relative to this file
                     train: images/train           # a folder, a .txt list of pictures, or a list of these
                     val: [images/val, more.txt]
                     names: [cat, dog]             # or {0: cat, 1: dog}
    a box            class x y width height        # of the middle
    a polygon        class x y x y x y …

The label file of `a/images/b/1.jpg` is `a/labels/b/1.txt` (the last `images` in the path counts), and of a picture in
no such folder the `.txt` beside it. A picture without label file, or with an empty one, has no objects. A line of five
numbers is a box and a longer one a polygon (a turned box is one of four corners), whatever the other lines are. Where
`kpt_shape` says that boxes are followed by keypoints, these are left out. Without data.yaml, the names stand in
`classes.txt` (Label Studio), or in `obj.names` (Darknet, CVAT), one a line; folders named like splits are splits.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.common.pictures import image_size
from pe_spatial.common.reading import read_whole
from pe_spatial.common.safe_yaml import YAMLError, parse_texts
from pe_spatial.data.formats.content import Box, Instances, InstancesBuilder, Polygons, shown
from pe_spatial.data.formats.exact import parse_number
from pe_spatial.data.formats.place import Place, read_names, read_text, split_names
from pe_spatial.data.formats.reading import Reading
from pe_spatial.data.formats.yolo_yaml import entries_of, keypoints_of, names_of, pictures_of, root_of, target_of

NAME_FILES = ("classes.txt", "obj.names")
_SPLIT_KEYS = ("train", "val", "test")
_NO_SPLITS = ("path", "names", "nc", "kpt_shape", "flip_idx", "download")
_NUMBER = re.compile(rb"[-+]?[\d.]+([eE][-+]?\d+)?")
_ROUNDING = Decimal("0.01")  # a coordinate may leave the picture by so much of its side
_NO_LABELS = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "notes.txt", "requirements.txt"}


@dataclass(frozen=True)
class _Description:
    """What data.yaml says, or what stands in for it."""

    source: Path
    names: Sequence[str]
    keypoints: int  # numbers that follow a box
    root: Place
    pictures: Mapping[str, Sequence[str]]  # by split, relative to the root
    folders: Sequence[str] = ()  # which may be the root of the pictures
    notes: Sequence[str] = ()


def find(place: Place) -> list[Reading]:
    """The readings of a file or folder."""
    found: list[Reading] = []
    for name in sorted(place.meant(".yaml", ".yml"), key=lambda name: name.count("/")):
        is_deeper = found and "/" in name  # does not count beside one at the top
        if not is_deeper and (content := entries_of(place.root / name)):
            found.append(_described(place.root / name, content))
    if found or place.is_file:
        return found
    if _rows_lie_in(place):
        names = _names_file(place)
        splits = tuple(split_names(place.pictures))
        about = f"YOLO, with names in {names}" if names else "YOLO, without names of classes"
        return [Reading("yolo", place.path, about, splits, partial(_load_folder, place, names))]
    return []


def _described(path: Path, content: Mapping[str, Any]) -> Reading:
    """The reading of a data.yaml; splits whose folder or list is not here are named, but do not count."""
    root, _ = root_of(path, content.get("path", ""))
    place = Place(root)
    splits, absent = [], []
    for key, value in content.items():
        entries = value if isinstance(value, list) else [value]
        here = [isinstance(entry, str) and target_of(place, entry, f"{path}: {key}") is not None for entry in entries]
        if key in _SPLIT_KEYS and value and not all(here):
            absent.append(key)
        elif key not in _NO_SPLITS and value and all(here):
            splits.append(key)
    about = f"YOLO, described by {path.name}"
    if splits and absent:
        about += f" (not here: {', '.join(f'{key} {shown(content[key])}' for key in absent)})"
    return Reading(
        "yolo", path, about, tuple(splits or absent or _SPLIT_KEYS[:1]), partial(_load_described, path, place)
    )


def label_path(picture: str) -> str:
    """Where the labels of a picture lie, both relative to the root."""
    stem = "/" + str(PurePosixPath(picture).with_suffix(""))
    before, found, after = stem.rpartition("/images/")
    return (f"{before}/labels/{after}" if found else stem)[1:] + ".txt"


def _names_file(place: Place) -> str | None:
    """The file that lists the names of the classes; None where there is none.

    Raises:
        AnnotationError: Several files differ.
    """
    found: dict[tuple[str, ...], str] = {}
    for name in place.files:
        if PurePosixPath(name).name in NAME_FILES:
            found.setdefault(tuple(read_names(place.root / name)), name)
    if len(found) > 1:
        raise AnnotationError(f"{place.path}: {' and '.join(found.values())} list different classes; keep one of them")
    return next(iter(found.values()), None)


def _rows_lie_in(place: Place) -> bool:
    """Whether text files lie where the labels of pictures would, and the first with content begins with numbers."""
    present = set(place.files)
    for name in map(label_path, place.pictures):
        words = read_whole(place.root / name).split() if name in present else []
        if words:
            return all(_NUMBER.fullmatch(word) for word in words[:5])
    return False


# --- label files ------------------------------------------------------------------------------------------------------
def _load_described(path: Path, place: Place, split: str) -> Instances:
    try:
        content = parse_texts(read_text(path))
    except (YAMLError, RecursionError) as error:
        raise AnnotationError(f"{path}: not YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: {type(content).__name__} instead of entries; write path, train, val and names")
    _, notes = root_of(path, content.get("path", ""))
    given = content.get(split) or ""
    pictures: list[str] = []
    for entry in given if isinstance(given, list) else [given]:
        if not isinstance(entry, str) or not entry.strip():
            raise AnnotationError(f"{path}: {split} is {shown(entry)}; write a folder, a .txt list, or a list of these")
        pictures += pictures_of(place, entry, f"{path}: {split}")
    doubled = len(pictures) - len(set(pictures))
    notes += [f"pictures listed twice, taken once: {doubled}"] if doubled else []
    names = names_of(path, content)
    listed = {split: list(dict.fromkeys(pictures))}
    folders = [given.strip("/")] if isinstance(given, str) else []
    folders = [folder.removeprefix("../").removeprefix("./") for folder in folders]
    return _load(_Description(path, names, keypoints_of(path, content), place, listed, folders, notes), split)


def _load_folder(place: Place, names: str | None, split: str) -> Instances:
    if names is None:
        raise AnnotationError(
            f"{place.path}: YOLO labels without class names; write data.yaml with names, or classes.txt with one name "
            "per line"
        )
    found = read_names(place.root / names)
    folders = (f"images/{split}", f"{split}/images", "images", f"obj_{split}_data", split)
    return _load(_Description(place.root / names, found, 0, place, split_names(place.pictures), folders), split)


def _load(description: _Description, split: str) -> Instances:
    place, pictures = description.root, description.pictures[split]
    builder = InstancesBuilder(str(description.source), place.root, description.names)
    owners: dict[str, str] = {}
    present = set(place.files)
    for picture in track(pictures, f"reading {split}", unit="images"):
        label = label_path(picture)
        if label in owners:
            raise AnnotationError(
                f"{place.root}: {owners[label]} and {picture} share the label file {label}; rename one of them"
            )
        owners[label] = picture
        size = image_size(place.root / picture)
        number = builder.add_image(picture, size)
        if label not in present:
            builder.note("pictures without label file, taken as without objects", picture)
            continue
        _add_rows(builder, description, place.root / label, number, size)
    if pictures and not owners.keys() & present:
        raise AnnotationError(
            f"{description.source}: none of the {len(pictures)} pictures of {split} has a label file; for "
            f"{pictures[0]} it would be {label_path(pictures[0])}"
        )
    folders = {str(PurePosixPath(label).parent) for label in owners}
    owned = set(map(label_path, place.pictures))
    for name in place.with_suffix(".txt"):
        path = PurePosixPath(name)
        if str(path.parent) in folders and name not in owned and path.name not in _NO_LABELS:
            builder.note("label files without picture, left out", name)
    content = builder.build(*description.folders)
    return Instances(**{**vars(content), "notes": (*description.notes, *content.notes)})


def _add_rows(
    builder: InstancesBuilder, description: _Description, path: Path, image: int, size: tuple[int, int]
) -> None:
    seen: set[str] = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if line in seen:
            builder.note("lines that stand twice, kept", f"{path}:{number}")
        seen.add(line)
        where = f"{path}:{number}"
        if description.keypoints and len(words) == 5 + description.keypoints:
            builder.note("keypoints left out, boxes kept", where)
            words = words[:5]
        name = description.names[_class_of(words[0], len(description.names), where)]
        builder.add_object(image, name, _shape(words[1:], size, where), where)


def _class_of(word: str, classes: int, where: str) -> int:
    try:
        value = parse_number(word)
    except ValueError:
        value = Decimal("NaN")
    if value != value or value != int(value) or not 0 <= value < classes:
        raise AnnotationError(f"{where}: class {word} is not one of 0 to {classes - 1}; names lists {classes} classes")
    return int(value)


def _shape(words: Sequence[str], size: tuple[int, int], where: str) -> Box | Polygons:
    """The object of a line, in pixels."""
    count = len(words) + 1
    if count == 6:
        raise AnnotationError(
            f"{where}: 6 columns are a prediction (a box with a confidence); labels have 5 columns (class x y width "
            "height)"
        )
    if count < 5 or count % 2 == 0:
        raise AnnotationError(
            f"{where}: {count} columns; a box needs 5 (class x y width height) and a polygon 7, 9, 11, … (class x y x "
            "y x y …)"
        )
    fractions = [_fraction(word, words, where) for word in words]
    H, W = (Decimal(side) for side in size)
    if count > 5:
        return Polygons([[(x * W, y * H) for x, y in zip(fractions[::2], fractions[1::2], strict=True)]])
    x, y, w, h = fractions
    if w <= 0 or h <= 0:
        raise AnnotationError(f"{where}: a box of width {words[2]} and height {words[3]}; both must be above 0")
    return Box(x * W - w * W / 2, y * H - h * H / 2, w * W, h * H)


def _fraction(word: str, words: Sequence[str], where: str) -> Decimal:
    try:
        value = parse_number(word)
    except ValueError:
        raise AnnotationError(
            f"{where}: {word!r} is not a number; write numbers with a decimal point, separated by spaces"
        ) from None
    if -_ROUNDING <= value <= 1 + _ROUNDING:
        return value
    in_pixels = all(math.isfinite(float(other)) for other in words) and max(map(float, words)) > 2
    rule = "these look like pixels; divide x by the width and y by the height" if in_pixels else "correct the line"
    raise AnnotationError(f"{where}: coordinate {word} is outside 0…1; {rule} ({few(words, 4)})")
