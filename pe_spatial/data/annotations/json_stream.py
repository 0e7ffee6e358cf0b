"""The lists at the top level of a large JSON file, piece by piece: the file is read once and never held whole."""

import re
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.reading import open_regular

WINDOW = 8 << 20  # bytes that are read at a time

_BOM = b"\xef\xbb\xbf"
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_KEY = re.compile(rb'"([^"\\]*)"\s*:\s*\Z')
_STEP = np.zeros(256, np.int8)  # by which a character changes the depth
_STEP[[ord("{"), ord("[")]] = 1
_STEP[[ord("}"), ord("]")]] = -1
_MARKS = bytes(chr(character) in '{}[]"' for character in range(256))


class Piece(NamedTuple):
    """Some entries of a list.

    Args:
        key: Of the list, at the top level of the file.
        text: JSON of a list of these entries.
        position: Bytes of the file that have been read so far.
    """

    key: str
    text: bytes
    position: int


class NotStreamable(Exception):  # noqa: N818 - no error: the caller reads the file in another way
    """The file is no JSON object, or no JSON at all; a parser of the whole file can say what is wrong."""


def read_lists(path: Path, keys: Collection[str]) -> Iterator[Piece]:
    """Yield the entries of some lists in the order of the file; a list that is there has a piece, also if it is empty.

    Only brackets and quotation marks are looked at: what a piece holds is for a parser to judge.

    Raises:
        NotStreamable: See there. Pieces may have been yielded before.
        UnreadableFile: It is a pipe, a device or a folder.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        text = file.read(WINDOW).removeprefix(_BOM).lstrip()
        if not text.startswith(b"{"):
            raise NotStreamable("no object")
        text, key = _next_list(file, text[1:])
        while key is not None:
            entries = _entries(file, text)
            while True:
                try:
                    body = next(entries)
                except StopIteration as end:
                    text, key = _next_list(file, end.value)
                    break
                if key in keys:
                    yield Piece(key, b"[" + body + b"]", file.tell())
        if text.strip() or file.read(WINDOW).strip():
            raise NotStreamable("there is text after the object")


def _next_list(file: IO[bytes], text: bytes) -> tuple[bytes, str | None]:
    """From between two members: what follows the bracket of the next list, and its key; None at the end."""
    while True:
        positions, depths = _brackets(text)
        if len(depths) and depths[0] < 0:
            return text[positions[0] + 1 :], None
        if len(depths) and text[positions[0]] == ord("["):
            key = _KEY.search(text, 0, int(positions[0]))
            return text[positions[0] + 1 :], key[1].decode("utf-8", "replace") if key else ""
        closed = np.flatnonzero(depths == 0)
        text = text[positions[closed[0]] + 1 :] if len(closed) else _longer(file, text)


def _entries(file: IO[bytes], text: bytes) -> Generator[bytes, None, bytes]:
    """From behind the bracket of a list: yield its entries, and return what follows the list."""
    is_first = True
    while True:
        positions, depths = _brackets(text)
        end = np.flatnonzero(depths < 0)
        whole = np.flatnonzero(depths == 0)
        if len(end):
            body = text[: positions[end[0]]]
            if is_first or body.strip():
                yield _without_comma(body, is_first)
            return text[positions[end[0]] + 1 :]
        if len(whole):
            cut = positions[whole[-1]] + 1
            yield _without_comma(text[:cut], is_first)
            text, is_first = text[cut:], False
        text = _longer(file, text)


def _without_comma(body: bytes, is_first: bool) -> bytes:
    if is_first:
        return body
    body = body.lstrip()
    if not body.startswith(b",") or not body[1:].strip():
        raise NotStreamable("a comma is missing or not needed")
    return body[1:]


def _longer(file: IO[bytes], text: bytes) -> bytes:
    more = file.read(max(WINDOW, len(text)))
    if not more:
        raise NotStreamable("it ends too early")
    return text + more


def _brackets(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the brackets outside of strings, and the depth behind each; the text begins outside of strings."""
    if b"\\" in text:
        text = _ESCAPE.sub(b"__", text)
    characters = np.frombuffer(text, np.uint8)
    positions = np.flatnonzero(np.frombuffer(text.translate(_MARKS), bool))
    marks = characters[positions]
    is_outside = np.cumsum(marks == ord('"')) % 2 == 0
    is_bracket = is_outside & (marks != ord('"'))
    return positions[is_bracket], np.cumsum(_STEP[marks[is_bracket]], dtype=np.int64)
