"""A COCO file as a table: what training, evaluation and the doctor see of it, converted or refused in one place."""

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import coco_columns
from pe_spatial.data.annotations.cache import Build, read_table
from pe_spatial.data.annotations.coco_columns import POLYGONS, RLE
from pe_spatial.data.annotations.columns import Columns
from pe_spatial.data.annotations.entries import FOREIGN_COCO
from pe_spatial.data.annotations.json_files import unreadable

_TEXTS = 4096  # that are copied at a time


class ImageTable:
    """The images of a table, and parts of its columns.

    Args:
        columns: With those of images.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def image(self, row: int) -> dict[str, Any]:
        """`id`, `file_name`, `coco_url`, `height` and `width` of an image; what the file does not give is missing."""
        columns = self.columns
        entry = {
            "id": int(columns["image_id"][row]),
            "file_name": self.text("image_names", row),
            "coco_url": self.text("image_urls", row),
            "height": int(columns["height"][row]),
            "width": int(columns["width"][row]),
        }
        return {key: value for key, value in entry.items() if key == "id" or value}

    def texts(self, name: str) -> Iterator[str]:
        """All texts of a column of bytes, without a copy of the whole column."""
        column, ends = self.columns[name], self.columns[f"{name}_end"]
        start = 0
        for first in range(0, len(ends), _TEXTS):
            block = ends[first : first + _TEXTS].tolist()
            offset, content = start, column[start : block[-1]].tobytes()
            for end in block:
                yield content[start - offset : end - offset].decode()
                start = end

    def part(self, name: str, row: int, ends: str | None = None) -> NDArray[Any]:
        """The part of a column that belongs to a row, as the column `ENDS_end` says."""
        column = self.columns[f"{ends or name}_end"]
        return self.columns[name][column[row - 1] if row else 0 : column[row]]

    def text(self, name: str, row: int) -> str:
        """A text of a column of bytes."""
        return self.part(name, row).tobytes().decode()


class CocoTable(ImageTable):
    """The images, annotations and categories of a file in COCO's format; its LVIS and Objects365 have it too.

    Rows count from 0: images and annotations in the order of the file, categories in that of their ids.

    Args:
        path: Of the file.
        columns: What it holds, where that is read otherwise.

    Attributes:
        path: Of the file.
        columns: See `pe_spatial.data.annotations.coco_columns`.
        categories: `id`, `name`, and where the file has them `isthing`, `color` and `frequency`.
        tiny_polygons: Number of polygons of fewer than three points, which are left out.
        conversions: Which values had another form than COCO's and were converted; a line for each field.

    Raises:
        AnnotationError: No file; not JSON or not COCO (says what was found); a value that cannot be taken, with its
            entry and the rule; an id or a name that is used twice, or an id that refers to nothing.
    """

    def __init__(self, path: str | Path, columns: Columns | None = None) -> None:
        self.path = Path(path)
        super().__init__(_read(self.path, "coco", coco_columns.gather) if columns is None else columns)
        self.categories: list[dict[str, Any]] = self.columns.header["categories"]
        self.tiny_polygons: int = self.columns.header["tiny_polygons"]
        self.conversions: list[str] = self.columns.header["conversions"]

    def rows_of(self, image: int) -> NDArray[np.integer[Any]]:
        """The annotations of an image."""
        first = self.columns["first"]
        return self.columns["order"][first[image] : first[image + 1]]

    def mask(self, row: int) -> Any:
        """The mask of an annotation as COCO writes it: polygons [[x, y, …], …], {size, counts}, or None."""
        shape = self.columns["shape"][row]
        if shape == RLE:
            return json.loads(self.text("runs", row))
        if shape != POLYGONS:
            return None
        sizes = self.part("polygon_sizes", row)
        return [polygon.tolist() for polygon in np.split(self.part("coordinates", row), np.cumsum(sizes)[:-1])]

    def truth(self) -> dict[str, Any]:
        """The file in the form that COCO's tools take: only what they use, areas of boxes where none is given.

        Annotations are numbered from 1, for an id of 0 reads as "unmatched".
        """
        columns = self.columns
        keys = ("image", "category", "box", "area", "crowd")
        fields = zip(*(columns[key].tolist() for key in keys), strict=True)
        image_ids, category_ids = columns["image_id"].tolist(), [category["id"] for category in self.categories]
        annotations = []
        for row, (image, category, box, area, crowd) in enumerate(fields):
            annotation = {
                "id": row + 1,
                "image_id": image_ids[image],
                "category_id": category_ids[category],
                "bbox": box,
                "area": box[2] * box[3] if math.isnan(area) else area,
                "iscrowd": int(crowd),
            }
            mask = self.mask(row)
            annotations.append(annotation if mask is None else {**annotation, "segmentation": mask})
        images = [{**self.image(row), **self.image_extras(row)} for row in range(len(image_ids))]
        return {"images": images, "categories": self.categories, "annotations": annotations}

    def incomplete(self, row: int, field: str) -> AnnotationError:
        """The error of an image that lacks a field that every image needs."""
        return AnnotationError(
            f"{self.path}: image {self.image(row)['id']} has no {field}; COCO images have id, file_name, height and "
            "width"
        )

    def image_extras(self, image: int) -> dict[str, Any]:
        """LVIS's lists `neg_category_ids` and `not_exhaustive_category_ids` of an image, if it has them."""
        return json.loads(self.text("image_extras", image) or b"{}")


def read_foreign(path: Path) -> CocoTable:
    """The table of a file whose images may be named by paths of another machine: they must not be opened as they are.

    Raises:
        AnnotationError: As `CocoTable`.
    """
    gather = partial(coco_columns.gather, kinds=FOREIGN_COCO)
    return CocoTable(path, _read(path, "coco with any names", gather))


def _read(path: Path, kind: str, gather: Build) -> Columns:
    try:
        return read_table(path, kind, gather)
    except OSError as error:
        raise unreadable(path, error) from error
