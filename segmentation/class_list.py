"""The YAML file that describes a folder of your own.

    classes: [road, tree, car]                         # index 0, 1, 2 in this order; or, with their colors:
    # classes: {road: [128, 64, 128], tree: [107, 142, 35], car: [0, 0, 142]}
    images: {train: images/train, val: images/val}     # folders by split, relative to this file
    labels: {train: labels/train, val: labels/val}
    zero_is_ignored: false                             # true: files count classes from 1, and 0 is no label
    ignore: [255]                                      # values, or [r, g, b], of the files that mean "no label"
    label_stem_end: _mask                              # a/1.jpg belongs to a/1_mask.png

Label maps are grayscale or palette PNGs of class indices, 8 or 16 bits; or, where classes have colors, RGB pictures in
exactly these colors. Only `classes`, `images` and `labels` are required.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, ConfigError, suggest
from pe_spatial.common.reading import read_text
from pe_spatial.common.safe_yaml import parse
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.segmentation.labels import LabelFormat
from pe_spatial.visualization import palette

_KEYS = ("classes", "images", "labels", "zero_is_ignored", "ignore", "label_stem_end")


@dataclass(frozen=True)
class ClassList:
    """A description as read: folders are absolute or relative to the working folder."""

    path: Path
    label_format: LabelFormat
    palette: list[list[int]]  # [[r, g, b], …] by class
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    label_stem_end: str

    def folders(self, split: str) -> dict[str, str]:
        """`img_path` and `seg_map_path` of a split.

        Raises:
            ConfigError: No such split.
        """
        for key, folders in (("images", self.images), ("labels", self.labels)):
            if split not in folders:
                raise ConfigError(f"{self.path}: {key} has no split {split!r}; {suggest(split, folders)}")
        return {"img_path": str(self.images[split]), "seg_map_path": str(self.labels[split])}


def read_class_list(path: str | Path) -> ClassList:
    """Read and check a description.

    Raises:
        ConfigError: No such file, or not a description as above.
    """
    content = _load(Path(path))
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{path}: unknown entry {key!r}; {suggest(str(key), _KEYS)}")
    missing = [key for key in _KEYS[:3] if key not in content]
    if missing:
        raise ConfigError(f"{path}: no entry {' and '.join(missing)}; a class list has classes, images and labels")
    names, colors = _classes(path, content["classes"])
    ignore = content.get("ignore", [IGNORE_LABEL])
    _require(isinstance(ignore, list), path, "ignore", ignore, "a list of values or of [r, g, b]")
    from_one = content.get("zero_is_ignored", False)
    _require(isinstance(from_one, bool), path, "zero_is_ignored", from_one, "true or false")
    ignored_values = [value for value in ignore if not isinstance(value, list)]
    _require(all(isinstance(v, int) and v >= 0 for v in ignored_values), path, "ignore", ignore, "0 or more")
    ignored_colors = [_color(path, "ignore", value) for value in ignore if isinstance(value, list)]
    by_color = {color: index for index, color in enumerate(colors)}
    if len(by_color) < len(colors):
        raise ConfigError(f"{path}: two classes have one color; colors must differ")
    if colors:
        by_color |= dict.fromkeys(ignored_colors, IGNORE_LABEL)
    try:
        label_format = LabelFormat.counting(names, from_one, ignored_values, by_color)
    except AnnotationError as error:
        raise ConfigError(f"{path}: {error}") from None
    folder = Path(path).parent
    return ClassList(
        path=Path(path),
        label_format=label_format,
        palette=[list(color) for color in colors] if colors else palette(len(names) + 1)[1:].tolist(),
        images=_folders(path, "images", content["images"], folder),
        labels=_folders(path, "labels", content["labels"], folder),
        label_stem_end=str(content.get("label_stem_end", "")),
    )


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; write a YAML file with classes, images and labels")
    try:
        content = parse(read_text(path))
    except Exception as error:  # the parser's own errors, and bytes that are no text
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {type(content).__name__} instead of entries; it has classes, images and labels")
    return content


def _classes(path: str | Path, value: Any) -> tuple[list[str], list[tuple[int, int, int]]]:
    if isinstance(value, list):
        wrong = [name for name in value if not isinstance(name, str)]
        _require(not wrong, path, "classes", wrong[:1], "names (in quotes where YAML reads a number or a truth value)")
        return list(value), []
    _require(isinstance(value, dict), path, "classes", value, "a list of names, or names with [r, g, b]")
    return [str(name) for name in value], [_color(path, name, color) for name, color in value.items()]


def _color(path: str | Path, name: str, color: Any) -> tuple[int, int, int]:
    valid = isinstance(color, list) and len(color) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    _require(valid, path, name, color, "[r, g, b] of 0…255")
    return (color[0], color[1], color[2])


def _folders(path: str | Path, key: str, value: Any, root: Path) -> dict[str, Path]:
    valid = isinstance(value, dict) and all(isinstance(folder, str) for folder in value.values())
    _require(valid, path, key, value, "folders by split, such as {train: a, val: b}")
    return {str(split): root / folder for split, folder in value.items()}


def _require(valid: bool, path: str | Path, key: str, value: Any, rule: str) -> None:
    if not valid:
        raise ConfigError(f"{path}: {key} is {value!r}; it must be {rule}")
