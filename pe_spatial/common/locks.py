"""Locks on folders that a process writes to."""

import json
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pe_spatial.common.errors import UnreadableFile, UserError


class FolderInUseError(UserError):
    """Another process holds the lock of a folder."""


@contextmanager
def lock_folder(folder: Path, name: str = "lock", what: str = "writes to it", wait: bool = False) -> Iterator[None]:
    """Keep every other process away from a folder as long as the block lasts or this process lives.

    The system gives the lock back when the process ends, however it ends. Locks of other names are independent. The
    hidden file `.NAME.lock` stays: to remove it would let two others in at once.

    Args:
        folder: Is made if it is missing.
        name: Of the lock.
        what: The holder does, for the message.
        wait: Until the holder has ended, instead of raising an error.

    Raises:
        FolderInUseError: Another process, or another block of this one, holds it. Names the process.
        UnreadableFile: Something else than a file has the name of the lock.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.lock"
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):  # a pipe would wait, and a link lead elsewhere
        raise UnreadableFile(f"{path} is not a file of this program but a link, a folder or a device; remove it")
    holder = _holder(path)  # read first, for older versions of filelock empty the file of another holder
    lock = FileLock(path, is_singleton=False, thread_local=False)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise FolderInUseError(
            f"{folder} is in use: {holder or _holder(path) or 'another process'} {what}; wait until it ends, stop it, "
            "or give another folder"
        ) from None
    try:
        path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}))
        yield
    finally:
        with suppress(OSError):  # the disk is full, or the folder was removed
            path.write_text("")
        lock.release()


def _holder(path: Path) -> str:
    try:
        content = json.loads(path.read_text())
        return f"process {content['pid']} on {content['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
