"""Tables of large annotation files, made once per machine and kept in a folder that all processes map.

The folder is `pe_spatial/annotations` below `$XDG_CACHE_HOME`, or below `~/.cache`; `$PE_SPATIAL_CACHE` names another
place of `pe_spatial`. Everything in it may be deleted at any time.
"""

import gc
import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.locks import lock_folder
from pe_spatial.data.annotations.columns import Columns, ColumnWriter, DamagedTable, open_columns

SMALLEST = 16 << 20  # bytes; smaller files are read in less than a second
_VERSION = 3  # of what tables hold, and of how the files of every format are read
_BUILDING = ".building-"

Build = Callable[[Path, ColumnWriter], dict[str, Any]]


def cache_folder() -> Path:
    """Where tables are kept."""
    own = os.environ.get("PE_SPATIAL_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pe_spatial")
    return base / "annotations"


def read_table(source: Path, kind: str, build: Build) -> Columns:
    """The table of a file: made in memory, or made once and mapped from the cache where the file is large.

    Args:
        source: The file.
        kind: Of the table; one file may have several.
        build: Fills a table from the file, and returns its header.

    Raises:
        OSError: The file cannot be read.
    """
    status = source.stat()
    is_large = status.st_size >= SMALLEST
    state = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}" if is_large else None
    return keep_table(source, kind, state, build)


def keep_table(source: Path, kind: str, state: str | None, build: Build) -> Columns:
    """A table that is made once and mapped from the cache by all processes.

    Processes that need one table at the same time wait for the first. A table of another version of its source or of
    pe_spatial is not used, and neither is a damaged one. Where the cache cannot be written a warning says so, and the
    table stays in the memory of this process.

    Args:
        source: The file or folder.
        kind: Of the table; one source may have several.
        state: Differs between versions of the source; None makes the table in memory, for a source that is read fast.
        build: Fills a table from the source, and returns its header.

    Raises:
        OSError: The source cannot be read.
    """
    if state is None:
        return _build(source, None, build)
    family = hashlib.sha256(f"{source.resolve()} {kind}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = f"{family}-{hashlib.sha256(f'{state} {_VERSION}'.encode()).hexdigest()[:16]}"
    try:
        with lock_folder(cache_folder(), family, "reads the same annotations", wait=True):
            return _kept(cache_folder(), family, name, lambda folder: _build(source, folder, build))
    except UnreadableFile:
        raise
    except OSError as error:
        if error.filename is not None and not Path(str(error.filename)).is_relative_to(cache_folder()):
            raise
        warnings.warn(
            f"{cache_folder()}: the table of {source} cannot be kept ({error.strerror or error}), so every process "
            "reads the file for itself; PE_SPATIAL_CACHE names another folder",
            stacklevel=2,
        )
        return _build(source, None, build)


def _kept(root: Path, family: str, name: str, build: Callable[[Path], Columns]) -> Columns:
    """A table from its folder, which is made if it is missing or damaged; older ones of its file go."""
    try:
        return open_columns(root / name)
    except DamagedTable:
        pass
    for old in root.glob(f"{family}-*"):  # those that are mapped stay readable until they are let go
        shutil.rmtree(old, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f"{family}-{_BUILDING}", dir=root))
    try:
        build(building)
        building.rename(root / name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return open_columns(root / name, verify=False)


def _build(source: Path, folder: Path | None, build: Build) -> Columns:
    with closing(ColumnWriter(folder)) as writer, _no_garbage_collection():
        return writer.finish(build(source, writer))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of short lists would make it walk over all objects of the process, for half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
