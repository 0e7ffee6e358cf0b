"""Annotation files in JSON, and the files that annotations name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, UnreadableFile
from pe_spatial.common.names import leaves
from pe_spatial.common.reading import read_whole


def read_annotations(path: str | Path) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Raises:
        AnnotationError: No such file, one that cannot be read, or no JSON, or JSON nested without end.
    """
    try:
        text = read_whole(path)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file; check data_root and ann_file") from None
    except UnreadableFile as error:
        raise AnnotationError(str(error)) from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except RecursionError:
        raise AnnotationError(f"{path}: lists in lists without end, or too many; it is damaged") from None
    except ValueError as error:  # also for text that is not UTF-8, and for numbers of thousands of digits
        start = text[:40].decode("utf-8", "replace").strip()
        raise AnnotationError(f"{path}: not JSON: {error} (it begins with {start!r})") from None


def file_below(root: str | Path, name: Any, where: str) -> Path:  # noqa: ANN401 - whatever an annotation says
    """The file below a folder that an annotation, a list or an index names.

    Links inside the folder are the user's, and are followed.

    Args:
        root: The folder.
        name: A relative path with slashes.
        where: The entry that names it, for messages.

    Raises:
        AnnotationError: The name is none, or leaves the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise AnnotationError(f"{where}: the name of a file is {name!r}; write a path below {root}")
    if leaves(name):
        raise AnnotationError(
            f"{where}: the file {name!r} leaves its folder {root}; write a path below it, or link the files into it"
        )
    return Path(root, name)


@contextmanager
def naming_entries(path: str | Path) -> Iterator[None]:
    """In the block, an entry that lacks a field or has one of another kind is a mistake of the file.

    Raises:
        AnnotationError: Names the file.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise AnnotationError(
            f"{path}: an entry lacks a field or has one of another kind ({type(error).__name__}: {error})"
        ) from error
