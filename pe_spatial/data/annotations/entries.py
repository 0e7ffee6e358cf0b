"""The entries of annotation files: only the fields that are used, each of one kind.

A piece of a file whose values have these kinds already is read by a fast parser. Any other is read by Python's, and its
values are converted or refused one by one; both ways give the same entries.
"""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.data.annotations import values
from pe_spatial.data.annotations.masks import Polygons, Rle, as_coco, normalize_mask

Box = tuple[float, float, float, float]
Id = Annotated[int, msgspec.Meta(ge=-values.LARGEST_ID, le=values.LARGEST_ID)]
Area = Annotated[float, msgspec.Meta(ge=0)]
Side = Annotated[int, msgspec.Meta(ge=1, le=values.LONGEST_SIDE)]
Level = Annotated[int, msgspec.Meta(ge=0, le=255)]
Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
FileName = Annotated[str, msgspec.Meta(pattern=r"\A(?!/)(?!(?:.*/)?\.\.(?:/|\Z))[^\0]*[^\s\0][^\0]*\Z")]  # see values
AnyName = Annotated[str, msgspec.Meta(pattern=r"\A[^\0]*[^\s\0][^\0]*\Z")]
MARKS = ("difficult", "truncated", "occluded")


class Image(msgspec.Struct):
    """An image. LVIS has no `file_name` but an address; and it says which classes are known to be absent."""

    id: Id
    file_name: FileName | None = None
    height: Side | None = None
    width: Side | None = None
    coco_url: str | None = None  # only LVIS reads it, and asks then whether it is one
    neg_category_ids: list[Id] | None = None
    not_exhaustive_category_ids: list[Id] | None = None


class Object(msgspec.Struct):
    """An object, or a region of a crowd."""

    image_id: Id
    category_id: Id
    bbox: Box
    id: Id | None = None
    area: Area | None = None
    iscrowd: Literal[0, 1] = 0
    segmentation: Polygons | Rle | None = None


class Category(msgspec.Struct, omit_defaults=True):
    """A class."""

    id: Id
    name: Text
    isthing: Literal[0, 1] | None = None
    color: tuple[Level, Level, Level] | None = None
    frequency: Text | None = None


class ForeignImage(Image):
    """An image that may be named by a path of the machine that wrote the file; the reader looks for it here."""

    file_name: AnyName | None = None


class Marks(msgspec.Struct):
    """What Pascal VOC notes of an object; what is neither 1, "1" nor true counts as 0."""

    difficult: Any = None
    truncated: Any = None
    occluded: Any = None


class ForeignObject(Object):
    """An object with its marks, which CVAT has in `attributes`."""

    difficult: Any = None
    truncated: Any = None
    occluded: Any = None
    attributes: Marks | None = None


class ForeignCategory(Category):
    """A class with its group."""

    supercategory: str | None = None


class Segment(msgspec.Struct):
    """A segment of a panoptic map."""

    id: Id
    category_id: Id
    iscrowd: Literal[0, 1] = 0


class PanopticMap(msgspec.Struct):
    """The segments of one image."""

    image_id: Id
    file_name: FileName
    segments_info: list[Segment]


Entry = TypeVar("Entry", bound=msgspec.Struct)
Convert = Callable[[Any], Any]
Conversions = dict[str, tuple[int, str]]  # how many values of a field were converted, and the first as it stands


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None or value == "" else convert(value)


def _list_of(convert: Convert) -> Convert:
    def convert_all(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError(f"{values.shown(value)}, but must be a list")
        return [convert(item) for item in value]

    return convert_all


def _flag(value: Any) -> int:
    return int(values.flag(value))


def _address(value: Any) -> str | None:
    """A text; None for anything else, for nearly nobody reads it."""
    try:
        return values.text(value)
    except ValueError:
        return None


def _segments(value: Any) -> list[Segment]:
    segments: list[Segment] = []
    for number, item in enumerate(_list_of(lambda item: item)(value), start=1):
        try:
            segments.append(_build(Segment, item))
        except ValueError as error:
            raise ValueError(f"has as segment number {number}: {error}") from None
    return segments


def _marks(value: Any) -> Marks | None:
    return _build(Marks, value) if isinstance(value, Mapping) else None


# what each field is made of; a field that is not there is a null one
_FIELDS: dict[type, dict[str, Convert]] = {
    Image: {
        "id": values.integer,
        "file_name": _optional(values.file_name),
        "height": _optional(values.side),
        "width": _optional(values.side),
        "coco_url": _address,
        "neg_category_ids": _optional(_list_of(values.integer)),
        "not_exhaustive_category_ids": _optional(_list_of(values.integer)),
    },
    Object: {
        "image_id": values.integer,
        "category_id": values.integer,
        "bbox": values.box,
        "id": _optional(values.integer),
        "area": _optional(values.area),
        "iscrowd": _flag,
        "segmentation": normalize_mask,
    },
    Category: {
        "id": values.integer,
        "name": values.text,
        "isthing": _optional(_flag),
        "color": _optional(values.color),
        "frequency": _optional(values.text),
    },
    Segment: {"id": values.integer, "category_id": values.integer, "iscrowd": _flag},
    PanopticMap: {"image_id": values.integer, "file_name": values.file_name, "segments_info": _segments},
}
_FIELDS |= {
    Marks: dict.fromkeys(MARKS, lambda value: value),
    ForeignImage: {**_FIELDS[Image], "file_name": _optional(values.any_name)},
    ForeignObject: {**_FIELDS[Object], "attributes": _marks, **dict.fromkeys(MARKS, lambda value: value)},
    ForeignCategory: {
        **_FIELDS[Category],
        "supercategory": lambda value: value if isinstance(value, str) else None,
    },
}
_FREE = {"attributes", "supercategory", *MARKS}  # fields in which every tool has what it wants
# the lists of a COCO file <- their entries: of files that are read as they stand, and of those of other machines
COCO: dict[str, type[msgspec.Struct]] = {"images": Image, "annotations": Object, "categories": Category}
FOREIGN_COCO: dict[str, type[msgspec.Struct]] = {
    "images": ForeignImage,
    "annotations": ForeignObject,
    "categories": ForeignCategory,
}
_NAMES: dict[type[msgspec.Struct], str] = {
    **dict.fromkeys((Image, ForeignImage), "image"),
    **dict.fromkeys((Object, ForeignObject, PanopticMap), "annotation"),
    **dict.fromkeys((Category, ForeignCategory), "category"),
}
_DECODERS = {kind: msgspec.json.Decoder(list[kind]) for kind in _NAMES}  # type: ignore[valid-type]


def decode(kind: type[Entry], text: bytes, source: str, conversions: Conversions | None = None) -> list[Entry]:
    """Entries from the JSON of a list.

    Args:
        kind: Of the entries.
        text: JSON in UTF-8.
        source: The file, for messages.
        conversions: Gains the values of another kind than the format's that were converted.

    Raises:
        AnnotationError: No JSON; or a value that cannot be taken, with its entry and the rule.
    """
    try:
        entries = _DECODERS[kind].decode(text)
    except (
        msgspec.MsgspecError,
        UnicodeDecodeError,
        RecursionError,
    ):  # a value of another kind, or NaN, which Python's parser takes
        try:
            items = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AnnotationError(f"{source}: not JSON: {error}") from None
        entries = [convert(kind, item, source, number) for number, item in enumerate(items)]
        if conversions is not None:
            for entry, item in zip(entries, items, strict=True):
                _note_conversions(conversions, entry, item)
        return entries
    if issubclass(kind, Object):
        for entry in cast("list[Object]", entries):
            if entry.segmentation is not None and not _is_plain(entry.segmentation):
                _settle_mask(entry, source)
    return entries


def _note_conversions(conversions: Conversions, entry: msgspec.Struct, item: Mapping[str, Any]) -> None:
    """Count the values that mean the same in another form; null and texts without a letter say that there is none."""
    kind = type(entry)
    for key in [key for key in _FIELDS[kind] if key not in _FREE]:
        value, taken = item.get(key), getattr(entry, key)
        if value not in (None, "") and taken is not None and json.loads(msgspec.json.encode(taken)) != value:
            count, example = conversions.get(f"{_NAMES[kind]} {key}", (0, values.shown(value)))
            conversions[f"{_NAMES[kind]} {key}"] = (count + 1, example)


def conversion_lines(conversions: Conversions) -> list[str]:
    """A line on each field of which values were converted."""
    return [f"{field}: {count} values converted, such as {example}" for field, (count, example) in conversions.items()]


def _is_plain(mask: Polygons | Rle) -> bool:
    if isinstance(mask, Rle) or not mask:
        return False
    for polygon in mask:  # noqa: SIM110 - of millions of masks: a generator takes three times as long
        if len(polygon) < 6 or len(polygon) % 2:
            return False
    return True


def _settle_mask(entry: Object, source: str) -> None:
    """Do to the mask what the slow way does."""
    mask = as_coco(entry.segmentation) if isinstance(entry.segmentation, Rle) else entry.segmentation
    try:
        entry.segmentation = normalize_mask(mask)
    except ValueError as error:
        what = _sentence("segmentation", str(error))
        raise AnnotationError(f"{source}: annotation {entry.id} (image {entry.image_id}): {what}") from None


def convert(kind: type[Entry], item: Any, source: str, number: int) -> Entry:
    """An entry from what JSON holds.

    Args:
        kind: Of the entry.
        item: Its value.
        source: The file, for messages.
        number: Place in the list, for entries without an id.

    Raises:
        AnnotationError: A value that cannot be taken, with its entry and the rule.
    """
    try:
        return _build(kind, item)
    except ValueError as error:
        name = _NAMES[kind]
        entry = item if isinstance(item, Mapping) else {}
        known = isinstance(entry.get("id"), int | str)
        where = f"{name} {entry['id']!r}" if known else f"{name} number {number + 1} of the list"
        image = f" (image {values.shown(entry['image_id'])})" if "image_id" in entry else ""
        raise AnnotationError(f"{source}: {where}{image}: {error}") from None


def _build(kind: type, item: Any) -> Any:
    if not isinstance(item, Mapping):
        raise ValueError(f"{values.shown(item)}, but must be an object with {few(_FIELDS[kind], 7)}")
    converted = {}
    for key, change in _FIELDS[kind].items():
        try:
            converted[key] = change(item.get(key))
        except ValueError as error:
            raise ValueError(_sentence(key, str(error), key in item)) from None
    return kind(**converted)


def _sentence(key: str, error: str, is_there: bool = True) -> str:
    if not is_there:
        return f"{key} is missing; it {error.partition('but ')[2]}"
    return f"{key} {error}" if error.startswith("has ") else f"{key} is {error}"
