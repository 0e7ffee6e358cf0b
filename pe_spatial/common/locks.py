"""Locks on folders that are written to."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pe_spatial.common.errors import UserError


@contextmanager
def lock_folder(folder: Path, name: str = "lock") -> Iterator[None]:
    """Hold a folder until the block ends or the process dies."""
    lock = FileLock(folder / f".{name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another process writes here; wait for it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()
