"""What a search leaves: its hits as JSON, as a table, and as a contact sheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pe_spatial.common.archives import read_images
from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.files import write_json, write_text
from pe_spatial.common.pictures import read_image
from pe_spatial.common.suffixes import VIDEO_SUFFIXES
from pe_spatial.common.video import VideoReader, is_video
from pe_spatial.search.index import Hit, Row
from pe_spatial.visualization.layout import caption_strip
from pe_spatial.visualization.sheets import fit_tile, save_sheet
from pe_spatial.zero_shot.embedding import read_clip

LIST, TABLE, SHEET = "hits.json", "hits.csv", "hits.png"
MOST_TILES = 40


def write_hits(folder: Path, index: Path, query: str, hits: Sequence[Hit]) -> None:
    """Write hits.json and hits.csv; those of an earlier search are replaced.

    Args:
        folder: Is made if it is missing.
        index: That was searched.
        query: A text, or the path of a picture.
        hits: The best first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / LIST, {"index": str(index), "query": query, "hits": [asdict(hit) for hit in hits]})
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["rank", "score", "file_name", "time"])
    for rank, hit in enumerate(hits, 1):
        table.writerow([rank, round(hit.score, 6), hit.name, "" if hit.time is None else round(hit.time, 3)])
    write_text(folder / TABLE, text.getvalue())


def draw_hits(path: Path, root: Path, query: str, hits: Sequence[Hit]) -> list[str]:
    """Write the first hits as a contact sheet.

    Args:
        path: Of the PNG.
        root: Where the files of the index lie.
        query: The title.
        hits: The best first; at most 40 are shown.

    Returns:
        What is wrong with those that cannot be shown; a gray tile stands for them.
    """
    tiles, problems = [], []
    for rank, hit in enumerate(hits[:MOST_TILES], 1):
        try:
            picture = read_row(root, hit)
        except (OSError, UnreadableFile) as error:
            problems.append(str(error))
            picture = torch.full((3, 480, 640), 200, dtype=torch.uint8)
        short = Row(hit.name.rpartition("/")[2], hit.time)
        tiles.append(caption_strip(f"{rank}.  {hit.score:.3f}  {short}", fit_tile(picture)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(path, query, tiles)
    return problems


def read_row(root: Path, row: Row) -> Tensor:
    """The picture uint8 [3, H, W] of a row: a file, an image in a tar, a frame, or the middle of a whole video.

    Raises:
        UnreadableFile: It is not there any more.
    """
    path = root / row.name
    tar = next((parent for parent in path.parents if parent.suffix.lower() == ".tar" and parent.is_file()), None)
    if tar is not None:
        inside = path.relative_to(tar).as_posix()
        for member, offset, size in read_images(tar):
            if member == inside or (tar / member) == path:
                return read_image(path, archive=(str(tar), offset, size))
        raise UnreadableFile(
            f"{tar} no longer has the image {inside}; {root} has changed since it was indexed; index it again"
        )
    if row.time is not None:
        return _frame_at(path, row.time)
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and is_video(path):
        return read_clip(path, 1)[0]
    return read_image(path)


def _frame_at(path: Path, time: float) -> Tensor:
    with VideoReader(path) as video:
        for frame in video.whole():
            if frame.time >= time - 1e-4:
                return frame.image
    raise UnreadableFile(f"{path} no longer has a frame at {time:.2f} s")
