"""The databases of the records: what a process has finished, a file each, read together in the order of names."""

from __future__ import annotations

import errno
import heapq
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, NamedTuple

from pe_spatial.common.errors import UnreadableFile, UserError

Row = tuple[Any, ...]
Stamp = tuple[int, int]  # bytes and time of the last change of a source

# no write-ahead log: it needs shared memory, which network disks do not have
_SCHEMA = """
PRAGMA journal_mode = TRUNCATE;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS units (name BLOB PRIMARY KEY, time INTEGER, bytes INTEGER, modified INTEGER,
    frames INTEGER, problem TEXT, files TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS contents (name BLOB, frame INTEGER, content TEXT, PRIMARY KEY (name, frame));
"""
PAGE = 200  # rows that are read at once; a reader that holds a database longer would stop its writer
_PATIENCE = 120.0  # seconds that a reader waits for a writer, and the other way round


class Unit(NamedTuple):
    """What is known of an image or a video.

    Attributes:
        name: Of the source, relative to the input.
        stamp: Of the source when it was read.
        frames: How many a video has; None for an image.
        problem: Why it failed; None if it did not.
        files: JSON of the paths relative to the output folder by kind: one of an image, a list of a video. None if it
            is not finished.
    """

    name: str
    stamp: Stamp | None
    frames: int | None
    problem: str | None
    files: str | None

    def paths(self) -> dict[str, str | list[str]]:
        """The `files`.

        Raises:
            UserError: The record is damaged.
        """
        return parsed(self.files, self.name) if self.files else {}


ADD_UNIT = "INSERT OR REPLACE INTO units VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_CONTENT = "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)"
UNITS = "SELECT * FROM units WHERE name > ? ORDER BY name"
CONTENTS = "SELECT frame, content FROM contents WHERE name = ? AND frame > ? ORDER BY frame"


class Database(sqlite3.Connection):
    """A connection that knows its file."""

    path: Path


def connect(path: Path) -> Database:
    """Open the database of a process; it is made if it is missing.

    Raises:
        UnreadableFile: It is damaged.
        OSError: It cannot be used.
    """
    with naming(path):
        connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False, factory=Database)
        connection.path = path
        connection.executescript(_SCHEMA)
    return connection


def parsed(text: object, name: str) -> dict[str, Any]:
    """The JSON of a record.

    Raises:
        UserError: It is none.
    """
    try:
        content = json.loads(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"the record of {name} is damaged ({str(text)[:60]!r}); give another --output")
    return content


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the errors of SQLite into those of the operating system, or into one that names a damaged file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(
            number, f"the records cannot be used ({error}); is the disk or a quota full?", str(path)
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())  # SQLite quotes what it finds, line breaks too
        raise UnreadableFile(
            f"{path} is damaged ({reason}); delete it, and run again; its files are then processed again"
        ) from error


def merged(databases: Sequence[Database]) -> Iterator[tuple[Database, Unit]]:
    """The latest record of every unit and the database that it is in, in the order of names."""
    streams = [zip(repeat(database), rows_of(database, UNITS, b"")) for database in databases]
    for rows in _together(streams):
        for database, row in rows:
            if type(row[0]) is not bytes or type(row[1]) is not int or not isinstance(row[6], str | None):
                raise UnreadableFile(
                    f"{database.path} is damaged; delete it, and run again; its files are then processed again"
                )
        database, (name, _, size, modified, frames, problem, files) = max(rows, key=lambda item: item[1][1])
        stamp = None if size is None else (size, modified)
        yield database, Unit(os.fsdecode(name), stamp, frames, problem, files)


def _together(streams: Sequence[Iterator[Any]]) -> Iterator[Sequence[Any]]:
    """The rows of sorted streams, those of one name together."""
    if len(streams) == 1:  # the usual case, in a third of the time
        return ([row] for row in streams[0])
    merged = heapq.merge(*streams, key=lambda item: item[1][0])
    return (list(rows) for _, rows in groupby(merged, key=lambda item: item[1][0]))


def rows_of(database: Database, query: str, last: Any, *fixed: Any) -> Iterator[Row]:
    """The rows whose first column, which they are sorted by, is above `last`; a page at a time."""
    while True:
        with naming(database.path):
            rows = database.execute(f"{query} LIMIT {PAGE}", (*fixed, last)).fetchall()
        yield from rows
        if len(rows) < PAGE:
            return  # saves a query
        last = rows[-1][0]
