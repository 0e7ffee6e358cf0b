"""Annotation files in JSON."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, UnreadableFile, few
from pe_spatial.common.reading import read_whole
from pe_spatial.data.annotations.json_stream import NotStreamable, Piece, read_lists


def read_annotations(path: str | Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Raises:
        AnnotationError: No such file, one that cannot be read, or no JSON, or JSON nested without end.
    """
    try:
        content = read_whole(path)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        return json.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise AnnotationError(f"{path}: not JSON: lists are nested too deeply; it is damaged") from None
    except ValueError as error:  # also for text that is not UTF-8, and for numbers of thousands of digits
        start = content[:40].decode("utf-8", "replace").strip()
        raise AnnotationError(f"{path}: not JSON: {error} (it begins with {start!r})") from None


def read_members(path: Path, keys: Sequence[str], what: str) -> Iterator[Piece]:
    """Yield the lists of a JSON object piece by piece; see `read_lists`.

    Args:
        path: Of the file.
        keys: Of the lists; all must be there.
        what: The file should hold, for messages.

    Raises:
        AnnotationError: No such file, one that cannot be read, no JSON, or another content than lists with these keys.
    """
    seen = set()
    try:
        for piece in read_lists(path, keys):
            seen.add(piece.key)
            yield piece
    except NotStreamable:
        pass  # below
    except OSError as error:
        raise unreadable(path, error) from error
    else:
        if seen == set(keys):
            return
    content = read_annotations(path)
    if not isinstance(content, dict):
        kind = "detection results or a bare list" if isinstance(content, list) else type(content).__name__
        raise AnnotationError(f"{path}: {kind} instead of a COCO dictionary with {', '.join(keys)}")
    missing = [key for key in keys if not isinstance(content.get(key), list)]
    if not missing and not seen:  # not in UTF-8
        yield from (Piece(key, json.dumps(content[key]).encode(), 0) for key in keys)
        return
    found = few(content, 8) or "nothing"
    raise AnnotationError(f"{path}: not {what}: no list of {' and '.join(missing or keys)} (it has: {found})")


def unreadable(path: str | Path, error: OSError) -> AnnotationError:
    """The error of an annotation file that the system does not give."""
    if isinstance(error, FileNotFoundError):
        return AnnotationError(f"{path}: no such annotation file; check data_root and ann_file")
    if isinstance(error, UnreadableFile):
        return AnnotationError(str(error))
    return AnnotationError(f"{path}: cannot be read: {error.strerror}")
