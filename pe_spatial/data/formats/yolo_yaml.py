"""YOLO's data.yaml: the names of the classes, and where the pictures of a split are."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pe_spatial.common.errors import AnnotationError, UnreadableFile, suggest
from pe_spatial.common.safe_yaml import YAMLError, parse_texts
from pe_spatial.data.formats.content import shown
from pe_spatial.data.formats.place import Place, below, is_absolute, portable, read_text


def entries_of(path: Path) -> dict[str, Any]:
    """The entries of a file that is a data.yaml; empty for other YAML files."""
    try:
        content = parse_texts(read_text(path))
    except (YAMLError, UnreadableFile, RecursionError):
        return {"train": "?"} if path.stem in ("data", "dataset") else {}  # is reported where it is read
    return content if isinstance(content, dict) and {"names", "nc"} & content.keys() and "images" not in content else {}


def root_of(path: Path, given: object) -> tuple[Path, list[str]]:
    """The folder that `path` of data.yaml means: the one it names, or else the one that data.yaml lies in."""
    if not isinstance(given, str):
        raise AnnotationError(f"{path}: path is {shown(given)}; write the folder of the dataset")
    text = portable(given)
    named = path.parent / text
    if not text or named.is_dir():
        inside = os.path.relpath(named, path.parent).split(os.sep)[0] != os.pardir
        return named, [] if inside else [f"pictures and labels are read from {named}, which path names"]
    return path.parent, [f"path {shown(given)} is not a folder here; read from {path.parent} instead"]


def pictures_of(place: Place, entry: str, where: str) -> list[str]:
    """The pictures of an entry of a split, relative to the root."""
    path = target_of(place, entry, where)
    if path is None:
        raise AnnotationError(f"{where} is {entry!r}: no such folder or list in {place.root}; {_near(place, entry)}")
    if (place.root / path).is_dir():
        inside = "" if path == "." else f"{path}/"
        return [name for name in place.pictures if name.startswith(inside)]
    if path.lower().endswith(".txt"):
        return _from_list(place, path)
    return [name for name in place.pictures if name == path or PurePosixPath(name).match(path)]


def target_of(place: Place, entry: str, where: str) -> str | None:
    """What an entry of a split means, relative to the root: a folder, a list, a picture or a pattern of pictures."""
    text = portable(entry)
    candidates = [text]
    if is_absolute(text):  # of this machine, or the ends of a path of another
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        inside = os.path.relpath(text, place.root.absolute()).replace(os.sep, "/")
        candidates = ["/".join(parts[start:]) for start in range(len(parts))] if inside.startswith("..") else [inside]
    elif text.startswith("../"):  # Roboflow writes ../train/images and means train/images
        candidates = [text[3:]]
    for candidate in filter(None, candidates):
        path = below("", candidate, where)
        if (place.root / path).is_dir() or (path.lower().endswith(".txt") and (place.root / path).is_file()):
            return path
        if any(name == path or glob.has_magic(path) and PurePosixPath(name).match(path) for name in place.pictures):
            return path
    return None


def _near(place: Place, entry: str) -> str:
    return suggest(portable(entry), {str(PurePosixPath(name).parent) for name in place.pictures})


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
                    f"{where}: {line.strip()!r} is not in {place.root}; restore it or remove the line"
                )
            found.append(picture)
    return found


def names_of(path: Path, content: Mapping[str, Any]) -> list[str]:
    """The names of the classes, in the order of their numbers."""
    names = content.get("names")
    if isinstance(names, dict):
        wrong = [key for number, key in enumerate(names) if key != str(number)]
        if set(names) != {str(number) for number in range(len(names))}:
            raise AnnotationError(
                f"{path}: names has the number {wrong[0]}; number the classes 0, 1, 2, … without gaps"
            )
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise AnnotationError(f"{path}: names is {shown(names)}; write a list, or 0: name, 1: name, …")
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise AnnotationError(f"{path}: the name of class {number} is {shown(name)}; write one name for each class")
    if content.get("nc", str(len(names))) != str(len(names)):
        raise AnnotationError(
            f"{path}: nc is {shown(content['nc'])}, but there are {len(names)} names; correct one of them"
        )
    return names


def keypoints_of(path: Path, content: Mapping[str, Any]) -> int:
    """How many numbers of keypoints follow a box."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, str) and n.isdecimal() for n in shape):
        raise AnnotationError(f"{path}: kpt_shape is {shown(shape)}; write [number of keypoints, 2 or 3]")
    return int(shape[0]) * int(shape[1])
