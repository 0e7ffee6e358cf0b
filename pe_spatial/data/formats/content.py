"""What every detection-like format is read into: the three lists of a COCO file, and the folder of the pictures."""

import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from pe_spatial.common.errors import AnnotationError, few
from pe_spatial.data.formats.exact import decimal

Record = dict[str, Any]
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxdict = 5
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2

Points = Sequence[tuple[Decimal, Decimal]]  # corners (x, y) in pixels


@dataclass(frozen=True)
class Instances:
    """Objects in pictures, in COCO's terms whatever the files were.

    Attributes:
        images: `{id, file_name, height, width}`; the name is relative to `image_root`, with slashes.
        annotations: `{id, image_id, category_id, bbox, area, iscrowd}`, the box `[x, y, width, height]` in pixels, and
            `segmentation` (polygons, or an RLE) where the object has a mask. VOC's `difficult`, `truncated` and
            `occluded` are kept where they are 1.
        categories: `{id, name}` in the order of the labels.
        image_root: Folder of the pictures.
        source: What was read, for messages.
        notes: What was passed over or is worth knowing, counted; a line each.
    """

    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    image_root: Path
    source: str
    notes: tuple[str, ...] = ()

    def as_coco(self) -> dict[str, list[Record]]:
        """The content of a COCO file."""
        return {"images": self.images, "annotations": self.annotations, "categories": self.categories}

    def summary(self) -> str:
        """Numbers of images, objects and classes, in one line."""
        return summary(len(self.images), len(self.annotations), self.categories)


def summary(images: int, objects: int, categories: Sequence[Record]) -> str:
    """Numbers of images, objects and classes, in one line."""
    names = few((category["name"] for category in categories), 12)
    return f"{images} images, {objects} objects, {len(categories)} classes ({names})"


@dataclass
class InstancesBuilder:
    """Collects the content; ids count from 1, and objects have the order in which they are added.

    Args:
        source: What is read, for messages.
        image_root: Folder of the pictures.
        names: Of the classes, in the order of the labels.
    """

    source: str
    image_root: Path
    names: Sequence[str]
    images: list[Record] = field(default_factory=list)
    annotations: list[Record] = field(default_factory=list)
    _notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_distinct(self.names, self.source)
        self._ids = {name: number for number, name in enumerate(self.names, start=1)}

    def add_image(self, file_name: str, size: tuple[int, int]) -> int:
        """Add a picture of `size` (H, W); returns its id."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "height": size[0], "width": size[1]})
        return number

    def add_object(
        self,
        image_id: int,
        name: str,
        shape: "Form",
        where: str,
        marks: Mapping[str, int] = {},  # noqa: B006
    ) -> None:
        """Add an object.

        Args:
            image_id: Of its picture.
            name: Of its class.
            shape: Its box, polygons or mask, in pixels.
            where: File and entry, for messages.
            marks: What is 1 of `difficult`, `truncated` and `occluded`.

        Raises:
            AnnotationError: The class is not in the list.
        """
        if name not in self._ids:
            raise AnnotationError(
                f"{where}: the class {name!r} is not in the list of {self.source}: {few(self.names, 12)}; add it there "
                "or correct the name"
            )
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": self._ids[name],
                **shape.fields(),
                "iscrowd": 0,
                **{key: 1 for key, value in marks.items() if value},
            }
        )

    def note(self, what: str, example: str) -> None:
        """Count something that is passed over."""
        self._notes.setdefault(what, []).append(example)

    def build(self, *folders: str) -> Instances:
        """The content.

        Args:
            *folders: The first in which all pictures lie becomes their root.

        Raises:
            AnnotationError: There is no picture.
        """
        notes = tuple(f"{what}: {len(examples)} ({few(examples)})" for what, examples in self._notes.items())
        if not self.images:
            raise AnnotationError(
                f"{self.source}: no picture with annotations; {'; '.join(notes) or 'the folder is empty'}"
            )
        categories = [{"id": number, "name": name} for name, number in self._ids.items()]
        inside = (
            folder for folder in folders if all(image["file_name"].startswith(folder + "/") for image in self.images)
        )
        folder = next(inside, "")
        for image in self.images:
            image["file_name"] = image["file_name"][len(folder) + 1 if folder else 0 :]
        return Instances(self.images, self.annotations, categories, self.image_root / folder, self.source, notes)


class Form(Protocol):
    """What an object covers, in pixels."""

    def fields(self) -> Record:
        """The entries `bbox`, `area` and perhaps `segmentation` of its annotation."""


@dataclass(frozen=True)
class Box:
    """A box in pixels."""

    x: Decimal
    y: Decimal
    width: Decimal
    height: Decimal

    def fields(self) -> Record:
        """Entries of the annotation."""
        box = [float(value) for value in (self.x, self.y, self.width, self.height)]
        return {"bbox": box, "area": box[2] * box[3]}


@dataclass(frozen=True)
class Polygons:
    """The parts of one object, each a polygon in pixels."""

    parts: Sequence[Points]

    def fields(self) -> Record:
        """Entries of the annotation: the box around all corners, and the sum of the areas."""
        return {
            "bbox": box_around(self.parts),
            "area": sum(polygon_area(part) for part in self.parts),
            "segmentation": [[float(value) for point in part for value in point] for part in self.parts],
        }


def box_around(parts: Iterable[Points]) -> list[float]:
    """The box [x, y, width, height] around all corners."""
    xs, ys = zip(*(point for part in parts for point in part), strict=True)
    left, top = min(xs), min(ys)
    return [float(value) for value in (left, top, max(xs) - left, max(ys) - top)]


def polygon_area(points: Points) -> float:
    """The area within a polygon, by the shoelace formula."""
    corners = [(float(x), float(y)) for x, y in points]
    pairs = zip(corners, [*corners[1:], *corners[:1]], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def corners_of(polygon: Sequence[float]) -> list[tuple[Decimal, Decimal]]:
    """The corners of COCO's [x, y, x, y, …]."""
    return [(decimal(x), decimal(y)) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]


def shown(value: object) -> str:
    """A value of a file for a message, in at most a line whatever it holds."""
    return _SHORT.repr(value)


def require_distinct(names: Iterable[str], source: str) -> None:
    """Refuse a class list with a name that stands twice, or an empty one.

    Raises:
        AnnotationError: It does.
    """
    twice = [name for name, count in Counter(names).items() if count > 1 or not name.strip()]
    if twice:
        raise AnnotationError(
            f"{source}: the class name {twice[0]!r} is empty or used twice; every class needs its own name"
        )
