"""YOLO: a text file per picture, a line per object, with fractions of the picture's width and height.

    data.yaml        path: .                       # the root; relative to this file
                     train: images/train           # a folder, a .txt list of pictures, or a list of these
                     val: [images/val, more.txt]
                     names: [cat, dog]             # or {0: cat, 1: dog}
    a box            class x y width height        # of the middle
    a polygon        class x y x y x y …

The label file of `a/images/b/1.jpg` is `a/labels/b/1.txt` (the last `images` in the path counts), and of a picture in
no such folder the `.txt` beside it. A picture without label file, or with an empty one, has no objects. A line of five
numbers is a box and a longer one a polygon, whatever the other lines are. Where `kpt_shape` says that boxes are
followed by keypoints, these are left out. Without data.yaml, the names stand in `classes.txt` (Label Studio), or in
`obj.names` (Darknet, CVAT), one a line; folders named like splits are splits.
"""

import glob
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError, UnreadableFile, few, suggest
from pe_spatial.common.pictures import image_size
from pe_spatial.common.safe_yaml import parse_texts
from pe_spatial.data.formats.content import Box, Instances, InstancesBuilder, Polygons
from pe_spatial.data.formats.exact import parse_number
from pe_spatial.data.formats.place import Place, below, is_absolute, portable, read_names, read_text, split_names
from pe_spatial.data.formats.reading import Reading

NAME_FILES = ("classes.txt", "obj.names")
_SPLIT_KEYS = ("train", "val", "test")
_NUMBER = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?", re.ASCII)
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
    found = []
    for name in place.meant(".yaml", ".yml"):
        if "/" not in name and (content := _entries(place.root / name)):
            path = place.root / name
            splits = tuple(key for key, value in content.items() if _is_split(path, content, key, value))
            found.append(Reading("yolo", path, f"YOLO, described by {name}", splits, partial(_load_described, path)))
    if found or place.is_file:
        return found
    names = next((name for name in NAME_FILES if name in place.files), None)
    if _rows_lie_in(place):
        splits = tuple(split_names(place.pictures))
        about = f"YOLO, with names in {names}" if names else "YOLO, without names of classes"
        return [Reading("yolo", place.path, about, splits, partial(_load_folder, place, names))]
    return []


def label_path(picture: str) -> str:
    """Where the labels of a picture lie, both relative to the root."""
    stem = "/" + str(PurePosixPath(picture).with_suffix(""))
    before, found, after = stem.rpartition("/images/")
    return (f"{before}/labels/{after}" if found else stem)[1:] + ".txt"


def _rows_lie_in(place: Place) -> bool:
    """Whether text files lie where the labels of pictures would, and the first with content begins with numbers."""
    present = set(place.files)
    for name in map(label_path, place.pictures):
        words = read_text(place.root / name).split() if name in present else []
        if words:
            return all(_NUMBER.fullmatch(word) for word in words[:5])
    return False


# --- data.yaml --------------------------------------------------------------------------------------------------------
def _entries(path: Path) -> dict[str, Any]:
    """The entries of a file that is a data.yaml; empty for other YAML files."""
    try:
        content = parse_texts(read_text(path))
    except (yaml.YAMLError, UnreadableFile, RecursionError):
        return {"train": "?"} if path.stem in ("data", "dataset") else {}  # is reported where it is read
    return content if isinstance(content, dict) and {"names", "nc"} & content.keys() and "images" not in content else {}


def _is_split(path: Path, content: Mapping[str, Any], key: str, value: object) -> bool:
    """Whether an entry says where pictures are: `train`, `val`, `test`, or any other that names a folder or a list."""
    if key in _SPLIT_KEYS:
        return bool(value)
    if key in ("path", "names", "nc") or not isinstance(value, str) or not value.strip():
        return False
    named = _root(path, content.get("path", ""))[0] / portable(value)
    return named.is_dir() or (named.suffix == ".txt" and named.is_file())


def _load_described(path: Path, split: str) -> Instances:
    try:
        content = parse_texts(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise AnnotationError(f"{path}: not YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: {type(content).__name__} instead of entries; it has path, train, val and names")
    root, notes = _root(path, content.get("path", ""))
    place = Place(root)
    given = content.get(split) or ""
    pictures: list[str] = []
    for entry in given if isinstance(given, list) else [given]:
        if not isinstance(entry, str) or not entry.strip():
            raise AnnotationError(f"{path}: {split} is {entry!r}; write a folder, a .txt list, or a list of these")
        pictures += _listed(place, entry, f"{path}: {split}")
    doubled = len(pictures) - len(set(pictures))
    notes += [f"pictures listed twice, taken once: {doubled}"] if doubled else []
    names = _names(path, content)
    listed = {split: list(dict.fromkeys(pictures))}
    folders = [given.strip("/")] if isinstance(given, str) else []
    folders = [folder.removeprefix("../").removeprefix("./") for folder in folders]
    return _load(_Description(path, names, _keypoints(path, content), place, listed, folders, notes), split)


def _root(path: Path, given: object) -> tuple[Path, list[str]]:
    """The folder that `path` of data.yaml means: the one it names, or else the one that data.yaml lies in."""
    if not isinstance(given, str):
        raise AnnotationError(f"{path}: path is {given!r}; write the folder of the data set")
    text = portable(given)
    named = path.parent / text
    if not text or named.is_dir():
        return named, []
    return path.parent, [f"path {given!r} is no folder here; read from {path.parent} instead"]


def _listed(place: Place, entry: str, where: str) -> list[str]:
    """The pictures of an entry of a split, relative to the root."""
    text = portable(entry)
    candidates = [text]
    if is_absolute(text):  # of this machine, or the ends of a path of another
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        candidates = ["/".join(parts[start:]) for start in range(len(parts))]
        inside = os.path.relpath(text, place.root.absolute()).replace(os.sep, "/")
        candidates = candidates if inside.startswith("..") else [inside]
    elif text.startswith("../"):  # Roboflow writes ../train/images and means train/images
        candidates = [text[3:]]
    for candidate in candidates:
        path = below("", candidate, where)
        if (place.root / path).is_dir():
            inside = "" if path == "." else f"{path}/"
            return [name for name in place.pictures if name.startswith(inside)]
        if path.lower().endswith(".txt") and (place.root / path).is_file():
            return _from_list(place, path)
        if path in place.pictures:
            return [path]
        if matched := [name for name in place.pictures if glob.has_magic(path) and PurePosixPath(name).match(path)]:
            return matched
    raise AnnotationError(
        f"{where} is {entry!r}: no such folder or list in {place.root}; {suggest(text, _folders(place))}, or set path"
    )


def _folders(place: Place) -> set[str]:
    return {str(PurePosixPath(name).parent) for name in place.pictures}


def _from_list(place: Place, name: str) -> list[str]:
    """The pictures that a list names: relative to the root, to the list, or of another machine."""
    found = []
    folder = str(PurePosixPath(name).parent)
    for number, line in enumerate(read_text(place.root / name).splitlines(), start=1):
        where = f"{place.root / name}:{number}"
        if line.strip():
            picture = place.picture(line, [".", folder], where)
            if picture is None:
                raise AnnotationError(
                    f"{where}: {line.strip()!r} is not in {place.root}; restore it or take the line out"
                )
            found.append(picture)
    return found


def _names(path: Path, content: Mapping[str, Any]) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        wrong = [key for number, key in enumerate(names) if key != str(number)]
        if set(names) != {str(number) for number in range(len(names))}:
            raise AnnotationError(
                f"{path}: names has the number {wrong[0]}; number the classes 0, 1, 2, … without gaps"
            )
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise AnnotationError(f"{path}: names is {names!r}; write a list, or 0: name, 1: name, …")
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise AnnotationError(f"{path}: the name of class {number} is {name!r}; write one name for each class")
    if content.get("nc", str(len(names))) != str(len(names)):
        raise AnnotationError(f"{path}: nc is {content['nc']}, but there are {len(names)} names; correct one of them")
    return names


def _keypoints(path: Path, content: Mapping[str, Any]) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, str) and n.isdecimal() for n in shape):
        raise AnnotationError(f"{path}: kpt_shape is {shape!r}; write [number of keypoints, 2 or 3]")
    return int(shape[0]) * int(shape[1])


# --- label files ------------------------------------------------------------------------------------------------------
def _load_folder(place: Place, names: str | None, split: str) -> Instances:
    if names is None:
        raise AnnotationError(
            f"{place.path}: YOLO labels without names of classes; write data.yaml with names, or classes.txt with one "
            "name a line"
        )
    found = read_names(place.root / names)
    folders = (f"images/{split}", f"{split}/images", "images", split)
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
            f"{description.source}: none of the {len(pictures)} pictures of {split} has a label file; that of "
            f"{pictures[0]} would be {label_path(pictures[0])}"
        )
    folders = {str(PurePosixPath(label).parent) for label in owners}
    for name in place.with_suffix(".txt"):
        path = PurePosixPath(name)
        if str(path.parent) in folders and name not in owners and path.name not in _NO_LABELS:
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
            f"{where}: 6 columns are a box with a confidence, as predictions have it; labels have 5 (class x y width "
            "height)"
        )
    if count < 5 or count % 2 == 0:
        raise AnnotationError(
            f"{where}: {count} columns; a box has 5 (class x y width height) and a polygon 7, 9, 11, … (class x y x y "
            "x y …)"
        )
    fractions = [_fraction(word, words, where) for word in words]
    H, W = (Decimal(side) for side in size)
    if count > 5:
        return Polygons([[(x * W, y * H) for x, y in zip(fractions[::2], fractions[1::2], strict=True)]])
    x, y, w, h = fractions
    if w <= 0 or h <= 0:
        raise AnnotationError(f"{where}: a box of width {words[2]} and height {words[3]}; both are above 0")
    return Box(x * W - w * W / 2, y * H - h * H / 2, w * W, h * H)


def _fraction(word: str, words: Sequence[str], where: str) -> Decimal:
    try:
        value = parse_number(word)
    except ValueError:
        raise AnnotationError(f"{where}: {word!r} is no number; columns are numbers with a point, and spaces") from None
    if -_ROUNDING <= value <= 1 + _ROUNDING:
        return value
    in_pixels = all(math.isfinite(float(other)) for other in words) and max(map(float, words)) > 2
    rule = "these look like pixels; divide x by the width and y by the height" if in_pixels else "correct the line"
    raise AnnotationError(f"{where}: coordinate {word} lies outside of 0…1; {rule} ({few(words, 4)})")
