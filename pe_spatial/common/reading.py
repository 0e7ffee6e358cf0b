"""Opening files that others have made: regular ones alone, so that nothing waits for a pipe or reads a device."""

import json
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.memory import available_memory

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_PARSED = 4  # bytes that a parsed file takes for every byte of its text, at least


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file for reading; never waits.

    Raises:
        UnreadableFile: It is a pipe, a socket, a device or a folder.
        OSError: It is missing, or cannot be opened.
    """
    require_regular(path)  # to open some devices has effects
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(path, os.fstat(descriptor))  # it may have changed
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_regular(path: str | Path) -> None:
    """Refuse what is no regular file, nor a link to one; errors as of `open_regular`."""
    _require_regular(path, os.stat(path))


def _require_regular(path: str | Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK):
            kind = "a folder that may not be listed"
        raise UnreadableFile(f"{path} cannot be read: it is {kind}, not a file")


def read_whole(path: str | Path) -> bytes:
    """The content of a file that is to be parsed, such as JSON, YAML or a list of names.

    Raises:
        UnreadableFile: It is no file, or larger than the memory holds.
        OSError: It is missing, or cannot be read.
    """
    with open_regular(path) as file:
        size, free = os.fstat(file.fileno()).st_size, available_memory()
        if size * _PARSED > free:
            raise UnreadableFile(
                f"{path} cannot be read: {size:,} bytes need more than the free memory of {free:,} bytes once parsed"
            )
        return file.read()


def read_text(path: str | Path) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        UnreadableFile: As `read_whole`; or it is empty, binary or in another encoding.
        OSError: It is missing, or cannot be read.
    """
    content = read_whole(path)
    if not content.strip():
        raise UnreadableFile(f"{path} is damaged: it is empty")
    if b"\0" in content:
        raise UnreadableFile(f"{path} is damaged: it contains only zero bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"{path} is damaged: it is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: str | Path, fields: Mapping[str, type] | None = None) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The content of a JSON file.

    Args:
        path: Of the file.
        fields: What it must hold, if it is an object: names and kinds; an int counts as a float.

    Raises:
        UnreadableFile: It is empty, cut short, not UTF-8 or no JSON, or lacks a field.
        OSError: It cannot be read.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"{path} is damaged: it is not JSON ({error})") from error
    if fields is not None and not isinstance(content, dict):
        raise UnreadableFile(f"{path} is damaged: it contains a {type(content).__name__}, not an object with fields")
    for name, kind in (fields or {}).items():
        value = content.get(name)
        if not is_of_kind(value, kind):
            found = "is missing" if name not in content else f"is {str(value)[:60]!r}"
            raise UnreadableFile(f"{path} is damaged: its field {name!r} {found}, not of the kind {kind.__name__}")
    return content


def is_of_kind(value: object, kind: type) -> bool:
    """Whether a value of JSON is of a kind; an int counts as a float, and a truth value as no number."""
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, (int, float) if kind is float else kind)
