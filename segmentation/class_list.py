"""The YAML file that describes a folder of your own.

    classes: [road, tree, car]                         # index 0, 1, 2 in this order; or, with their colors:
    # classes: {road: [128, 64, 128], tree: [107, 142, 35], car: [0, 0, 142]}
    # classes: {0: road, 1: tree, 2: car}              # or by number, from 0
    images: {train: images/train, val: images/val}     # folders by split, relative to this file
    labels: {train: labels/train, val: labels/val}
    zero_is_ignored: false                             # true: files count classes from 1, and 0 is no label
    ignore: [255]                                      # values, or [r, g, b], of the files that mean "no label"
    label_stem_end: _mask                              # a/1.jpg belongs to a/1_mask.png; likewise label_stem_start,
                                                       # image_stem_start and image_stem_end
    value_range: [0, 4095]                             # of pictures of more than 8 bits: what is black and white
    bands: [4, 3, 2]                                   # of pictures of several: red, green and blue, or the gray one

Label maps are grayscale or palette PNGs of class indices, 8 or 16 bits; or, where classes have colors, RGB or palette
pictures in exactly these colors. Only `classes`, `images` and `labels` are required.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, ConfigError, OptionError, few, suggest
from pe_spatial.common.pictures import ValueRule
from pe_spatial.common.reading import read_text
from pe_spatial.common.safe_yaml import parse
from pe_spatial.data.pairs import Affixes
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.segmentation.labels import Color, LabelFormat
from pe_spatial.visualization import class_colors

_AFFIXES = ("image_stem_start", "image_stem_end", "label_stem_start", "label_stem_end")
_KEYS = ("classes", "images", "labels", "zero_is_ignored", "ignore", *_AFFIXES, "value_range", "bands")


@dataclass(frozen=True)
class ClassList:
    """A description as read: folders are absolute or relative to the working folder."""

    path: Path
    label_format: LabelFormat
    palette: list[list[int]]  # [[r, g, b], …] by class
    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    affixes: Affixes
    rule: ValueRule

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
    from_one = content.get("zero_is_ignored", False)
    _require(isinstance(from_one, bool), path, "zero_is_ignored", from_one, "true or false")
    ignored, by_color = _ignored(path, content, names, colors, from_one)
    try:
        label_format = LabelFormat.counting(names, from_one, ignored, by_color)
    except AnnotationError as error:
        raise ConfigError(f"{path}: {error}") from None
    affixes = [content.get(key, "") for key in _AFFIXES]
    for key, affix in zip(_AFFIXES, affixes, strict=True):
        _require(isinstance(affix, str), path, key, affix, "text, in quotes")
    folder = Path(path).parent
    described = ClassList(
        path=Path(path),
        label_format=label_format,
        palette=class_colors(names, colors),
        images=_folders(path, "images", content["images"], folder),
        labels=_folders(path, "labels", content["labels"], folder),
        affixes=Affixes((affixes[0], affixes[1]), (affixes[2], affixes[3])),
        rule=_rule(path, content),
    )
    if len(names) == 1:
        raise ConfigError(
            f"{path}: there is nothing to learn: {names[0]!r} is the only class; add a class for the other pixels: "
            f"classes: [background, {names[0]}], zero_is_ignored: false, 0 for background and 1 for {names[0]} in the "
            "files"
        )
    return described


def _ignored(
    path: str | Path, content: Mapping[str, Any], names: list[str], colors: list[Color], from_one: bool
) -> tuple[list[int] | None, dict[Color, int]]:
    """The values that mean "no label" (None: those of every dataset), and the class, or "no label", of each color."""
    ignore = content.get("ignore", [])
    _require(isinstance(ignore, list), path, "ignore", ignore, "a list of values or of [r, g, b]")
    values = [value for value in ignore if not isinstance(value, list)]
    valid = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    _require(valid, path, "ignore", ignore, "0 or more")
    for value in values:
        if from_one <= value < len(names) + from_one:
            raise ConfigError(
                f"{path}: ignore contains {value}, which is also the value of the class {names[value - from_one]!r}; "
                "remove one of them"
            )
    by_color = {color: index for index, color in enumerate(colors)}
    if len(by_color) < len(colors):
        raise ConfigError(f"{path}: two classes have the same color; every class needs its own color")
    for color in [_color(path, "ignore", value) for value in ignore if isinstance(value, list)] if colors else []:
        if by_color.get(color, IGNORE_LABEL) != IGNORE_LABEL:
            raise ConfigError(
                f"{path}: ignore contains {list(color)}, which is also the color of the class "
                f"{names[by_color[color]]!r}; remove one of them"
            )
        by_color[color] = IGNORE_LABEL
    return values if "ignore" in content else None, by_color


def _rule(path: str | Path, content: Mapping[str, Any]) -> ValueRule:
    try:
        return ValueRule.of(content.get("value_range"), content.get("bands"))
    except OptionError as error:
        raise ConfigError(f"{path}: {error}") from None


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; write a YAML file with classes, images and labels")
    try:
        content = parse(read_text(path))
    except Exception as error:  # the parser's own errors, and bytes that are no text
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {type(content).__name__} instead of entries; write classes, images and labels")
    return content


def _classes(path: str | Path, value: Any) -> tuple[list[str], list[Color]]:
    if isinstance(value, list):
        wrong = [name for name in value if not isinstance(name, str)]
        _require(not wrong, path, "classes", wrong[:1], "names (in quotes where YAML reads a number or a truth value)")
        return list(value), []
    _require(isinstance(value, dict), path, "classes", value, "a list of names, or names with [r, g, b]")
    numbered = _by_number(path, value)
    if numbered:
        return numbered, []
    return [str(name) for name in value], [_color(path, name, color) for name, color in value.items()]


def _by_number(path: str | Path, value: Mapping[Any, Any]) -> list[str]:
    """The names of `{0: road, 1: tree}` or of `{road: 0, tree: 1}` in the order of their numbers; empty: neither."""
    pairs = [(_number(key), name) for key, name in value.items()]
    if all(_number(number) is not None for number in value.values()):
        pairs = [(_number(number), name) for name, number in value.items()]
    names = {number: name for number, name in pairs if number is not None}
    if not names or None in dict(pairs):
        return []
    _require(len(names) == len(value), path, "classes", value, "classes of different numbers")
    wrong = [name for name in names.values() if not isinstance(name, str)]
    _require(not wrong, path, "classes", wrong[:1], "names (in quotes where YAML reads a number or a truth value)")
    if sorted(names) != list(range(len(names))):
        remedy = "write the list of their names, and zero_is_ignored: true" if 0 not in names else "name all of them"
        raise ConfigError(
            f"{path}: the numbers of the classes are {few(sorted(names), 8)}; they must be 0 to {len(names) - 1} "
            f"without gaps: {remedy}"
        )
    return [names[number] for number in range(len(names))]


def _number(value: Any) -> int | None:
    """An integer, also one in quotes; None: no integer."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if type(value) is int else None


def _color(path: str | Path, name: str, color: Any) -> Color:
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
