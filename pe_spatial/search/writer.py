"""The index in a folder: the writer of `pe-spatial index`, and what has changed since its last run."""

from __future__ import annotations

import base64
import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pe_spatial.common.console import track
from pe_spatial.common.errors import few
from pe_spatial.common.files import atomic_path, write_json
from pe_spatial.common.records import Records, stamp_of
from pe_spatial.features.stores import Store
from pe_spatial.features.writer import Extracting, FeatureWriter
from pe_spatial.search.encoder import EMBEDDING, IndexEmbedder

INDEX, EMBEDDINGS, ROWS = "index.json", "embeddings.npy", "rows.jsonl"
INDEX_VERSION = 1
TYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}


class RecordStore(Store):
    """Keeps an embedding in the record of its picture, from which the one file of all is written again and again."""

    places = (EMBEDDINGS, ROWS)
    kinds: tuple[str, ...] = ()

    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """See `Store`."""
        vector = features[EMBEDDING].numpy().astype(TYPES[self.description["dtype"]])
        return {"vector": base64.b64encode(vector.tobytes()).decode()}


class IndexWriter(FeatureWriter):
    """Writes the embeddings of pictures and videos, in the order of their names.

        OUT/embeddings.npy      float32 or float16 [N, D]
        OUT/rows.jsonl          line i says what row i of it belongs to: the name, and of a frame its time in seconds
        OUT/index.json          what both are made with; while it is missing, they are not whole

    Args:
        records: Of the output folder.
        stems: See `ResultsWriter`.
        options: Of the command.
        embedder: Whose embeddings they are.
        source: How search opens the encoder again, and where the files lie.
    """

    result = INDEX

    def __init__(
        self,
        records: Records,
        stems: Mapping[str, str],
        options: Namespace,
        embedder: IndexEmbedder,
        source: Mapping[str, Any],
    ) -> None:
        self.source = dict(source)
        self.type = TYPES[options.dtype]
        store = RecordStore(records.folder, embedder.names, {"dtype": options.dtype})
        extractor: Extracting = embedder
        super().__init__(records, stems, options, store, extractor)

    def write_lists(self) -> None:
        """Write the three files."""
        channels = self.extractor.description["encoder"]["channels"]
        # one after the other they are put in place; a kill in between leaves no index.json, so nothing is mistaken
        with atomic_path(self.folder / EMBEDDINGS) as vectors, atomic_path(self.folder / ROWS) as lines:
            count = self._write_rows(vectors, lines, channels)
            (self.folder / INDEX).unlink(missing_ok=True)
        shape = {"file": EMBEDDINGS, "dtype": self.type.name, "shape": [count, channels]}
        content = {"format_version": INDEX_VERSION, "embeddings": shape, "rows": ROWS, **self.source}
        write_json(self.folder / INDEX, content | self.extractor.description)

    def _write_rows(self, vectors: Path, lines: Path, channels: int) -> int:
        count = 0
        with open(vectors, "wb") as values, open(lines, "wb") as rows:
            values.write(npy_header(0, channels, self.type))
            for entry in track(self.records.contents(), "rows", unit="rows"):
                values.write(base64.b64decode(entry["vector"]))
                rows.write(f"{json.dumps(_row_of(entry))}\n".encode())
                count += 1
            values.seek(0)
            values.write(npy_header(count, channels, self.type))
        return count

    def forget_vanished(self, changes: Changes) -> None:
        """Take out what is no longer among the files."""
        if changes.vanished:
            self.records.forget(changes.vanished)


def _row_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": entry["file_name"]} | ({"time": entry["time"]} if "frame" in entry else {})


def npy_header(rows: int, channels: int, dtype: np.dtype[Any]) -> bytes:
    """The head of a .npy file [rows, channels]; NumPy pads it so that its length is the same for any number of rows."""
    file = BytesIO()
    head = {"descr": dtype.str, "fortran_order": False, "shape": (rows, channels)}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue()


# --- what has changed -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Changes:
    """How the files differ from those of the last run.

    Attributes:
        known: Whether there was one that finished something.
        new: How many were not there.
        changed: Names of those that have another size or time of change now.
        vanished: Names of those that are gone.
    """

    known: bool
    new: int
    changed: tuple[str, ...]
    vanished: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """In words; nothing for a first run."""
        if self.known:
            parts = [f"{self.new} new"]
            for what, names in (("changed", self.changed), ("vanished, and taken out", self.vanished)):
                parts.append(f"{len(names)} {what}" + (f" ({few(names)})" if names else ""))
            yield "since the last run: " + "; ".join(parts)


def changes_of(records: Records, files: Mapping[str, Path]) -> Changes:
    """What has changed since the records were written.

    Args:
        records: Of the index.
        files: All files of the input by their names; of pictures in an archive, the archive.
    """
    known, changed, vanished = 0, [], []
    seen = set()
    for unit in records.units():
        if unit.files is None and unit.problem is None:
            continue  # taken back
        if unit.name not in files:
            vanished.append(unit.name)
        else:
            seen.add(unit.name)
            if unit.files is not None and unit.stamp != stamp_of(files[unit.name]):
                changed.append(unit.name)
        known += unit.files is not None
    return Changes(known > 0, len(files.keys() - seen), tuple(changed), tuple(vanished))


def identity_of(embedder: IndexEmbedder, encoder: str, root: Path, dtype: str) -> dict[str, Any]:
    """What must be equal for two runs to share an index."""
    description = {
        f"{section}.{key}": value for section, fields in embedder.description.items() for key, value in fields.items()
    }
    return {"task": "search index", "model": encoder, "input": str(root), "dtype": dtype, **description}
