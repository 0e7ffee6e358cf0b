"""Opening files that others have made: regular ones alone, so that nothing waits for a pipe or reads a device."""

import os
import stat
from io import BufferedReader
from pathlib import Path

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
                f"{path} cannot be read: {size:,} bytes are more than the free memory of {free:,} holds once parsed"
            )
        return file.read()


def read_text(path: str | Path) -> str:
    """The content of a text file in UTF-8, with or without its mark; errors as of `read_whole`.

    Raises:
        UnreadableFile: It is not UTF-8.
    """
    try:
        return read_whole(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path} cannot be read: {error}; save it as UTF-8") from None
