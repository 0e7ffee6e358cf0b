"""A file in COCO's panoptic format as a table: images, and the segments of their maps.

L maps, S segments. Columns: those of the images (see `pe_spatial.data.annotations.coco_columns`); `map_image` [L],
rows; `map_names`; `segment_id`, `segment_category` (rows) and `segment_crowd` [S]. `map_names_end` and `segments_end`
[L] say where the part of each map ends.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.console import progress
from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations.cache import read_table
from pe_spatial.data.annotations.coco_columns import LISTS, append_images
from pe_spatial.data.annotations.coco_table import ImageTable
from pe_spatial.data.annotations.columns import ColumnWriter
from pe_spatial.data.annotations.entries import Category, Image, PanopticMap, decode
from pe_spatial.data.annotations.json_files import read_members, unreadable
from pe_spatial.data.annotations.linking import Ids, append_texts, check_categories, settle_ends

Segment = tuple[int, int, bool]  # id in the map, row of the category, whether it is a crowd


class PanopticTable(ImageTable):
    """The images, maps and categories of a file.

    Args:
        path: Of the file.

    Raises:
        AnnotationError: No file; not JSON or no panoptic file; a value that cannot be taken, with its entry and the
            rule; an id or a name that is used twice, or an id that refers to nothing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            super().__init__(read_table(self.path, "panoptic", gather))
        except OSError as error:
            raise unreadable(path, error) from error
        self.categories: list[dict[str, Any]] = self.columns.header["categories"]

    def __len__(self) -> int:
        return len(self.columns["map_image"])

    def map_name(self, row: int) -> str:
        """The file of a map."""
        return self.text("map_names", row)

    def segments(self, row: int) -> list[Segment]:
        """The segments of a map."""
        fields = (self.part(name, row, "segments").tolist() for name in _SEGMENT_COLUMNS)
        return list(zip(*fields, strict=True))


_SEGMENT_COLUMNS = ("segment_id", "segment_category", "segment_crowd")


def gather(source: Path, writer: ColumnWriter) -> dict[str, Any]:
    """Fill the columns; returns the header: `categories` in the order of their rows."""
    categories: list[Category] = []
    append_images(writer, [])
    _append_maps(writer, [], source)
    with progress(f"reading {source.name}", source.stat().st_size >> 20, "MB") as bar:
        for key, text, position in read_members(source, LISTS, "COCO's panoptic format"):
            if key == "images":
                append_images(writer, decode(Image, text, str(source)))
            elif key == "annotations":
                _append_maps(writer, decode(PanopticMap, text, str(source)), source)
            else:
                categories += decode(Category, text, str(source))
            bar.advance((position >> 20) - bar.done)
    categories.sort(key=lambda category: category.id)
    check_categories(str(source), categories)
    images = Ids(str(source), "image", writer.column("image_id"))
    kinds = Ids(str(source), "category", np.array([category.id for category in categories], np.int64))
    rows = images.rows_of(writer.column("map_image_of"))
    _require_one_map_each(source, writer, rows)
    writer.append("map_image", rows, "i4")
    writer.append("segment_category", kinds.rows_of(writer.column("segment_category_of"), what="segments"), "i4")
    settle_ends(writer, "image_names", "image_urls", "image_extras", "map_names", "segments")
    for name in ("map_image_of", "segment_category_of"):
        writer.drop(name)
    return {"categories": msgspec.to_builtins(categories)}


def _require_one_map_each(source: Path, writer: ColumnWriter, rows: NDArray[np.int64]) -> None:
    counts = np.bincount(rows)
    twice = np.flatnonzero(counts > 1)
    if len(twice):
        raise AnnotationError(
            f"{source}: image {writer.column('image_id')[twice[0]]} has {counts[twice[0]]} annotations, and "
            f"{len(twice)} images have several; an image may have only one map, with all its segments"
        )


def _append_maps(writer: ColumnWriter, maps: Sequence[PanopticMap], source: Path) -> None:
    for item in maps:
        ids = [segment.id for segment in item.segments_info]
        if len(set(ids)) < len(ids):
            twice = next(number for number in ids if ids.count(number) > 1)
            raise AnnotationError(
                f"{source}: {item.file_name} (image {item.image_id}): segment id {twice} is used twice; every segment "
                "of a map needs its own id"
            )
    segments = [segment for item in maps for segment in item.segments_info]
    writer.append("map_image_of", [item.image_id for item in maps], "i8")
    append_texts(writer, "map_names", [item.file_name.encode() for item in maps])
    writer.append("segments_size", [len(item.segments_info) for item in maps], "i4")
    writer.append("segment_id", [segment.id for segment in segments], "i8")
    writer.append("segment_category_of", [segment.category_id for segment in segments], "i8")
    writer.append("segment_crowd", [segment.iscrowd for segment in segments], "?")
