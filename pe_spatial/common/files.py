"""Files: each one that is written is old or new, never in between, and on the disk when the call returns.

Small text files are read here too: a damaged one is an error that names it.
"""

import errno
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

from pe_spatial.common.errors import FullDiskError, OptionError

_TEMPORARY = ".writing"
_WRITER = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-\d+\.writing$")
# a temporary keeps so much of the name of its file: even an encrypted folder, with names of 143 bytes, takes it then
_NAME_BYTES = 70
# nobody can ask a process of another machine whether it still writes
_FOREIGN_SECONDS = 24 * 3600.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# some systems open no folders, and some network disks do not sync them
_NO_FOLDER_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP)

_count = itertools.count()


# --- writing ----------------------------------------------------------------------------------------------------------
def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; see `atomic_path`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write(file)


def write_new(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a file that does not exist yet, without waiting until it is on the disk.

    This is for thousands of small files of a new folder that counts only when its last file is there.

    Raises:
        FullDiskError: No space is left.
        FileExistsError: The file exists; it stays as it is.
        OSError: The folder cannot be written.
    """
    try:
        with open(path, "xb") as file:
            write(file)
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(path) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the block the path of a temporary file to fill, and put it in place of `path` when the block ends.

    Its name has no suffix of its own, so a library that takes the format from the name has to be told it.

    Raises:
        FullDiskError: No space is left.
        OSError: The folder cannot be written. After any error `path` is as before, and the temporary file is removed.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        if is_full_disk(error) and not isinstance(error, FullDiskError):
            raise full_disk(path) from error
        if error.filename == str(temporary):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give the block the path of a new folder to fill, and put it in place of `path` when the block ends.

    After anything else than the end of the block `path` is as before, and the new folder is removed; one that a killed
    process has left is removed by the next call.

    Args:
        path: Is missing, or an empty folder.

    Raises:
        OptionError: Another disk is mounted at the path.
        FullDiskError: No space is left.
        OSError: The folder cannot be written, or `path` is something else.
    """
    path = Path(os.path.realpath(path))
    if os.path.ismount(path):
        raise OptionError(f"{path} is a mount point and cannot be replaced; give a folder inside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    for old in path.parent.glob(f".*{_TEMPORARY}"):
        if old.is_dir() and _WRITER.sub("", old.name) == _WRITER.sub("", temporary.name) and _is_leftover(old):
            shutil.rmtree(old, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(path) from error
        if error.filename is not None and Path(str(error.filename)).is_relative_to(temporary):
            error.filename = str(path / Path(error.filename).relative_to(temporary))
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """A hidden path beside `path` that no other call, thread or process gets; `remove_leftovers` knows its owner."""
    name = path.name.encode(errors="ignore")[:_NAME_BYTES].decode(errors="ignore")
    pid = os.getpid()
    return path.with_name(f".{name}.{_host()}-{pid}-{_start_of(pid)}-{next(_count)}{_TEMPORARY}")


def put_in_place(temporary: Path, path: Path) -> None:
    """Move a file that was filled step by step to `path`, with its content on the disk."""
    _sync(temporary, os.O_RDWR)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; names of files that are no valid text keep their bytes."""
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write a JSON file that ends with a line break."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_json_stream(path: Path, sections: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Write a JSON object with one line per entry of its lists, without holding the whole in memory.

    Args:
        path: Of the file.
        sections: Keys and values, in their order. A value may be an iterator of entries; it becomes a list.
    """

    def write(file: IO[bytes]) -> None:
        for number, (key, value) in enumerate(sections.items() if isinstance(sections, Mapping) else sections):
            file.write(f"{',' if number else '{'}\n {json.dumps(key)}: ".encode())
            for piece in _entries(value) if isinstance(value, list | Iterator) else (json.dumps(value),):
                file.write(piece.encode())
        file.write(b"\n}\n" if file.tell() else b"{}\n")

    write_atomically(path, write)


def _entries(values: Iterable[Any]) -> Iterator[str]:
    empty = True
    for value in values:
        yield ("[" if empty else ",") + "\n  " + json.dumps(value)
        empty = False
    yield "[]" if empty else "\n ]"


# --- a full disk ------------------------------------------------------------------------------------------------------
def is_full_disk(error: OSError) -> bool:
    """Whether a write failed for want of space, be it of the disk, a quota or a limit."""
    return error.errno in _NO_SPACE


def full_disk(path: Path, needed: int | None = None) -> FullDiskError:
    """The error of a file that finds no space.

    Args:
        path: Of the file.
        needed: Its bytes, where they are known.
    """
    free = shutil.disk_usage(path.parent).free
    counts = f"{free:,} bytes are free" if needed is None else f"it needs {needed:,} bytes and {free:,} are free"
    return FullDiskError(
        f"{path} cannot be written (the disk is full or a quota is used up): {counts}; free some space or write to "
        "another disk"
    )


# --- what killed processes leave --------------------------------------------------------------------------------------
def remove_leftovers(folder: Path, recursive: bool = False) -> None:
    """Remove the temporary files of processes that do not live any more.

    A file of a process on another machine is removed when nobody has written to it for a day.

    Args:
        folder: May be missing.
        recursive: Look into the folders below too.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            # the path last: folders may hold a million files
            if name.startswith(".") and name.endswith(_TEMPORARY) and _is_leftover(path := Path(place, name)):
                with suppress(FileNotFoundError, PermissionError):  # another process was faster, or owns it
                    path.unlink()
        if not recursive:
            break


def _is_leftover(path: Path) -> bool:
    writer = _WRITER.search(path.name)
    if writer is not None and writer[1] == _host():
        return _start_of(int(writer[2])) != int(writer[3])
    try:
        return time.time() - path.stat().st_mtime > _FOREIGN_SECONDS
    except FileNotFoundError:
        return False


@functools.cache
def _host() -> str:
    """Eight digits for the machine and, in a container, for the numbering of its processes."""
    try:
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> int | None:
    """When a process began, in ticks of the machine's clock (0 where the system does not tell); None: it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0 if not Path("/proc/self/stat").exists() and psutil.pid_exists(pid) else None
    return None if state == "Z" else int(fields[18])
