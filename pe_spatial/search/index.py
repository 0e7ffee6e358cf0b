"""`Index`: what `pe-spatial index` has written, searched by words, by a picture, or by vectors.

Letters: N rows, Q queries, D channels, K results of a query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pe_spatial.backbones.text import text_vectors
from pe_spatial.common.errors import OptionError, UnknownName, UnreadableFile, require_positive
from pe_spatial.common.reading import open_regular, read_json
from pe_spatial.common.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from pe_spatial.inference.inputs import Picture
from pe_spatial.search.encoder import IndexEmbedder, describe, open_model, require_same
from pe_spatial.search.product import nearest
from pe_spatial.search.writer import INDEX, INDEX_VERSION, npy_header
from pe_spatial.zero_shot.embedding import read_clip

AGAIN = "give the same pe-spatial index command again"
_FIELDS: dict[str, type] = {
    "format_version": int,
    "embeddings": dict,
    "rows": str,
    "input": str,
    "open": dict,
    "encoder": dict,
    "preprocessing": dict,
    "videos": dict,
}
_BLOCK = 64 * 2**20  # bytes of the lines that are looked through at once


@dataclass(frozen=True)
class Row:
    """What a row of the embeddings belongs to.

    Attributes:
        name: Of the file, relative to the input of the index.
        time: Of a frame of a video, in seconds from its start; None for a picture or a whole video.
    """

    name: str
    time: float | None = None

    def __str__(self) -> str:
        return self.name if self.time is None else f"{self.name} at {self.time:.2f} s"


@dataclass(frozen=True)
class Hit(Row):
    """A row that was found.

    Attributes:
        score: The scalar product with the query; a cosine, but for videos by the definition `retrieval`.
        row: Its number.
    """

    score: float = 0.0
    row: int = 0


class Index:
    """Embeddings of pictures and videos that can be searched. They are mapped from the file, so opening is fast.

    Args:
        folder: That `pe-spatial index` has written.
        encoder: Replaces the name or folder that the index was made with, for example if it was moved.
        weights: Other weights for it; see `open_core`.
        device: Of the encoder, e.g. "cuda:1"; None takes CUDA if it is there.

    Attributes:
        folder: Of the index.
        content: Of index.json: encoder, hash of its weights, preprocessing, rule for videos.
        embeddings: [N, D] float32 or float16, mapped from the file.
        root: The folder that the names of the files start from.

    Raises:
        UnreadableFile: There is no index, or it is damaged or incomplete.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: str | Path | None = None,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.folder = Path(folder)
        path = self.folder / INDEX
        if not path.is_file():
            raise UnreadableFile(f"{folder} is not a complete index: it has no {INDEX}; run pe-spatial index")
        self.content: dict[str, Any] = read_json(path, _FIELDS)
        if self.content["format_version"] != INDEX_VERSION:
            version = self.content["format_version"]
            raise UnreadableFile(f"{path} has format_version {version}, and this version reads {INDEX_VERSION}")
        self.root = Path(self.content["input"])
        self._given = encoder, weights, device
        self.embeddings = self._map()

    def __len__(self) -> int:
        return len(self.embeddings)

    def _map(self) -> NDArray[np.floating]:
        stated = self.content["embeddings"]
        try:
            path, kind = self.folder / Path(stated["file"]).name, np.dtype(stated["dtype"])
            rows, channels = map(int, stated["shape"])
            wanted = npy_header(rows, channels, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableFile(
                f"{self.folder / INDEX} is damaged: embeddings {stated} do not describe an array"
            ) from error
        if channels != self.content["encoder"].get("channels"):
            raise UnreadableFile(f"{self.folder / INDEX} is damaged: {channels} channels are not those of its encoder")
        with open_regular(path) as file:
            if file.read(len(wanted)) != wanted:
                raise UnreadableFile(f"{path} is not the array {rows} x {channels} of its {INDEX}; {AGAIN}")
        size = len(wanted) + rows * channels * kind.itemsize
        if (found := path.stat().st_size) != size:
            what = "cut" if found < size else "damaged"
            raise UnreadableFile(f"{path} is {what}: it has {found:,} bytes, not the {size:,} of {rows} rows; {AGAIN}")
        if not rows:
            raise UnreadableFile(f"{self.folder} has no rows, because none of its files could be read; see failed.json")
        mapped: NDArray[np.floating] = np.memmap(path, kind, "r", len(wanted), (rows, channels))
        return mapped

    # --- names --------------------------------------------------------------------------------------------------------
    def rows(self) -> Iterator[Row]:
        """What all rows belong to, in their order."""
        with open_regular(self._lines_path) as file:
            for line in file:
                yield self._parsed(line)

    def row(self, number: int) -> Row:
        """What a row belongs to."""
        with open_regular(self._lines_path) as file:
            file.seek(int(self._begins[number]))
            return self._parsed(file.readline())

    @property
    def _lines_path(self) -> Path:
        return self.folder / Path(self.content["rows"]).name

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        """Where each line begins, in bytes: 8 bytes of memory a row."""
        ends, place = [np.zeros(1, np.int64)], 0
        with open_regular(self._lines_path) as file:
            while block := file.read(_BLOCK):
                ends.append(np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + place + 1)
                place += len(block)
        begins = np.concatenate(ends)[:-1]
        if len(begins) != len(self):
            raise UnreadableFile(f"{self._lines_path} is damaged: {len(begins)} lines for {len(self)} rows; {AGAIN}")
        return begins

    def _parsed(self, line: bytes) -> Row:
        try:
            content = json.loads(line)
            return Row(str(content["name"]), content.get("time"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            shown = line[:60].decode(errors="replace")
            raise UnreadableFile(f"{self._lines_path} is damaged: {shown!r} does not name a file; {AGAIN}") from error

    # --- searching ----------------------------------------------------------------------------------------------------
    @cached_property
    def embedder(self) -> IndexEmbedder:
        """The encoder of the index, opened when it is needed first.

        Raises:
            OptionError: It is another than the one that the index was made with, or knows no texts.
            UnknownName: It is not where it was.
        """
        source = self.content["open"]
        encoder, weights, device = self._given
        weights = weights or (None if encoder else source.get("weights"))
        encoder = encoder or source.get("encoder", "")
        try:
            model = open_model(str(encoder), weights, device)
        except UnknownName as error:
            raise UnknownName(f"{error.args[0]}; if it was moved, give its new path with --encoder") from error
        require_same(self.folder, self.content["encoder"], describe(model))
        return IndexEmbedder(model)

    def search(self, query: str | Picture, top_k: int = 10) -> list[Hit]:
        """The rows that are nearest to a query, the best first; equal ones in the order of their rows.

        Args:
            query: A text; or a picture or a video: its path (a `Path`, or a str that ends like one, such as in
                `.jpg`), the bytes of a picture file, a binary file object, a PIL image, a uint8 array [H, W, 3] or a
                uint8 tensor [3, H, W]. A video is one vector, by the definition `classification`.
            top_k: K; where there are fewer rows, all of them are returned.

        Raises:
            OptionError: `top_k` is below 1, the text is empty, or the encoder is another one.
            UnreadableFile: A path without an image or a video.
        """
        require_positive(top_k=top_k)
        scores, rows = nearest(self.embeddings, self.vector(query)[None], top_k)
        found = ((self.row(row), row, score) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True))
        return [Hit(row.name, row.time, score, number) for row, number, score in found]

    def vector(self, query: str | Picture) -> NDArray[np.float32]:
        """The normalized vector float32 [D] of a text, a picture or a video; see `search`."""
        if isinstance(query, str) and not names_file(query):
            return self.text_vectors([query])[0]
        if isinstance(query, str | Path):
            path = Path(query).expanduser()
            is_picture = path.suffix.lower() in IMAGE_SUFFIXES
            query = path if is_picture or not names_file(str(path)) else read_clip(path)
        return self.embedder.of_picture(query).numpy()

    def text_vectors(self, texts: list[str]) -> NDArray[np.float32]:
        """The normalized vectors float32 [Q, D] of texts; too long ones are cut, which a warning says.

        Raises:
            OptionError: There is no text, or one is empty.
        """
        if empty := sum(not text.strip() for text in texts):
            raise OptionError(f"{empty} of {len(texts)} texts are empty; describe what you are looking for")
        return text_vectors(self.embedder.model, texts, shown=True).cpu().numpy()


def names_file(query: str) -> bool:
    """Whether a query ends like the name of a picture or a video; it is a text otherwise."""
    return Path(query).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
