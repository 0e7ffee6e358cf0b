"""Files and folders of every detection-like format as tables, which training, evaluation and the doctor share."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError
from pe_spatial.common.suffixes import IMAGE_SUFFIXES
from pe_spatial.data.annotations import CocoTable
from pe_spatial.data.annotations.cache import SMALLEST, keep_table
from pe_spatial.data.annotations.coco_columns import gather_lists
from pe_spatial.data.annotations.columns import ColumnWriter
from pe_spatial.data.formats.content import summary
from pe_spatial.data.formats.place import Place
from pe_spatial.data.formats.reading import Reading, Source
from pe_spatial.data.formats.recognition import choose, is_plain_coco

_MANY = 5000  # files, which take seconds to read


def open_source(path: str | Path, split: str | None = None, format: str | None = None) -> Source:  # noqa: A002
    """The table of a file or folder of a detection-like format.

    A JSON file without `split` and `format` is a plain COCO file, unless it is LabelMe's or Label Studio's.

    Args:
        path: A file or folder.
        split: Which part; may be left out where there is only one.
        format: One of `FORMATS`, where the files can be read in several ways.

    Raises:
        AnnotationError, UnreadableFile: A fault in the files; names file, entry, rule and remedy.
        OptionError: No such split or format, one without boxes, or several splits.
    """
    path = Path(path).expanduser()
    if split is None and format is None and is_plain_coco(path):
        return Source(CocoTable(path))
    try:
        reading = choose(path, format)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such file or folder; check data_root and ann_file") from None
    split = reading.chosen(split)
    source = reading.table(split) if reading.table is not None else _read(Place(path), reading, split)
    columns = source.table.columns
    counts = summary(len(columns["image_id"]), len(columns["image"]), source.table.categories)
    about = f"{reading.path}: {reading.about}; {split} of {', '.join(reading.splits)}: {counts}"
    return replace(source, about=about)


def _read(place: Place, reading: Reading, split: str) -> Source:
    """A split as a table, from the cache where reading takes long."""

    def build(_: Path, writer: ColumnWriter) -> dict[str, Any]:
        content = reading.instances(split)
        header = gather_lists(content.source, writer, content.as_coco())
        return {**header, "image_root": os.path.relpath(content.image_root, place.root), "notes": content.notes}

    columns = keep_table(place.path, f"{reading.format} {split}", _state(place), build)
    root, notes = place.root / columns.header["image_root"], tuple(columns.header["notes"])
    return Source(CocoTable(place.path, columns), root, notes)


def _state(place: Place) -> str | None:
    """Differs when any file of a place changes; None where reading them takes no time."""
    digest, size = hashlib.sha256(), 0
    for name in place.files:
        status = os.stat(place.root / name)
        size += 0 if name.lower().endswith(IMAGE_SUFFIXES) else status.st_size
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest() if len(place.files) >= _MANY or size >= SMALLEST else None
