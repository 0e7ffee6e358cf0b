"""What a run over many files remembers: what is finished, by which model, and who works in the folder now.

    OUT/.pe_spatial/run.json                     what all runs into OUT have in common: task, model, settings
    OUT/.pe_spatial/part_3_of_16.sqlite          what one process has finished
    OUT/.pe_spatial/.part_3_of_16.lock           held while that process works

Every process writes to a database of its own, so that several machines share a folder on a network disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from pe_spatial.common.errors import UnreadableFile, UserError, printable
from pe_spatial.common.files import write_json
from pe_spatial.common.locks import lock_folder
from pe_spatial.common.reading import read_json
from pe_spatial.common.record_databases import (
    ADD_CONTENT,
    ADD_UNIT,
    CONTENTS,
    PAGE,
    Database,
    Row,
    Stamp,
    Unit,
    connect,
    merged,
    naming,
    parsed,
    rows_of,
)

HIDDEN = ".pe_spatial"
FORMAT_VERSION = 1
INFORMATION = ("model",)  # entries of a run that two runs into one folder may differ in

Item = TypeVar("Item")


def fingerprint(path: Path) -> str:
    """Of the content of a checkpoint, without reading its weights: an archive lists the checksums of its parts."""
    digest = hashlib.sha256()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                name = part.filename.partition("/")[2]  # the first folder has the name of the file when it was saved
                digest.update(f"{name} {part.file_size} {part.CRC}\n".encode())
    else:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]


def stamp_of(path: str | Path) -> Stamp | None:
    """By which a changed file is told from the one that was read; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: no name that a file can have
        return None
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Part:
    """Which of `count` equal parts of the files a process works on, from 0."""

    number: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items: every `count`-th."""
        return items[self.number :: self.count]

    def within(self, other: Part) -> Part:
        """The part that this one is of another part."""
        return Part(other.number * self.count + self.number, other.count * self.count)

    @property
    def stem(self) -> str:
        """Of the names of its files, which count from 1."""
        return f"part_{self.number + 1}_of_{self.count}"


class Records:
    """What is finished in an output folder, so that the next run goes on where this one was stopped.

    A unit, an image or a video, is finished by one record. Records are on disk at once and survive the kill of their
    process. Neither memory nor the time until the first picture grow with their content.

    Args:
        folder: Of the results; it may be missing.
        run: What must be equal for two runs to share it, such as the model and its settings. `INFORMATION` may differ.
        part: Of this process.

    Attributes:
        folder: Of the results.
        run: As JSON holds it.

    Raises:
        UserError: The folder holds the results of another run.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], part: Part | None = None) -> None:
        self.folder = folder
        self.run: dict[str, Any] = json.loads(json.dumps({"format_version": FORMAT_VERSION, **run}))
        self.part = part or Part()
        self._hidden = folder / HIDDEN
        self._run_file = self._hidden / "run.json"
        self._mutex = threading.Lock()  # of the connection and of the frames that wait: writers are threads
        self._frames: list[tuple[bytes, int, str]] = []
        self._open = ExitStack()
        self._connection: sqlite3.Connection | None = None
        self._check_run()

    # --- who may write ------------------------------------------------------------------------------------------------
    def claim(self, names: Sequence[str]) -> None:
        """Begin to write.

        Args:
            names: Files and folders of the output folder that only runs like this one write to.

        Raises:
            UserError: They exist although no run has left a record, or another process works on the same part, or on
                parts of another size.
        """
        foreign = next((self.folder / name for name in names if _holds_something(self.folder / name)), None)
        if foreign is not None and not self._run_file.is_file():
            raise UserError(f"{foreign} contains files of unknown origin; give another --output, or move them away")
        self._hidden.mkdir(parents=True, exist_ok=True)
        with FileLock(self._hidden / ".start.lock"):
            differs = self._check_run(foreign is not None)
            for path in sorted(self._hidden.glob(".part_*.lock")):
                part = path.stem[1:]
                if differs or part.rpartition("_")[2] != str(self.part.count):
                    with self._lock(part):
                        pass  # it is free
            self._open.enter_context(self._lock(self.part.stem))
            if differs:
                write_json(self._run_file, self.run)
        self._connection = connect(self._hidden / f"{self.part.stem}.sqlite")
        self._open.callback(self._connection.close)

    def close(self) -> None:
        """Stop writing; what was added stays."""
        self._connection = None
        self._open.close()

    def list_lock(self) -> FileLock:
        """A context in which this process alone writes the lists of the folder; it waits for the others."""
        return FileLock(self._hidden / ".list.lock")

    def _lock(self, part: str) -> AbstractContextManager[None]:
        return lock_folder(self._hidden, part, f"does {part.replace('_', ' ')} of the files")

    def _check_run(self, has_results: bool = False) -> bool:
        """Whether the file of the run is missing, or tells of another run that finished nothing, which does not count.

        Raises:
            UserError: Another run has left results.
        """
        if not self._run_file.is_file():
            return True
        try:
            found = read_json(self._run_file, {"format_version": int})
        except UnreadableFile as error:
            raise UserError(f"{error}; so it is not known what was run; give another --output") from None
        different = [key for key in {**found, **self.run} if found.get(key) != self.run.get(key)]
        if not set(different) - set(INFORMATION):
            return False
        if has_results or next(self.units(), None) is not None:
            difference = ", ".join(f"{key} {found.get(key)!r} instead of {self.run.get(key)!r}" for key in different)
            raise UserError(f"{self.folder} contains the results of another run ({difference}); give another --output")
        return True

    # --- writing ------------------------------------------------------------------------------------------------------
    def add(
        self,
        name: str,
        content: Mapping[str, Any] | None = None,
        stamp: Stamp | None = None,
        files: Mapping[str, Any] | None = None,
        frames: int | None = None,
    ) -> None:
        """Note that an image, or a video with all its frames, is finished; safe to call from several threads.

        Args:
            name: Of the source, relative to the input.
            content: For the lists, of an image; a video has those of `add_frame`.
            stamp: Of the source when it was read.
            files: Paths of what was written, relative to the output folder, by kind; of a video a list for each.
            frames: How many a video has.
        """
        self._write(*self._statements(name, content, stamp, files, frames))

    def add_together(self, units: Iterable[tuple[str, Mapping[str, Any], Stamp | None, Mapping[str, Any]]]) -> None:
        """Note that several images are finished, all of them or, after a kill, none.

        Args:
            units: (name, content, stamp, files) of each; see `add`.
        """
        self._write(*(statement for unit in units for statement in self._statements(*unit, None)))

    @staticmethod
    def _statements(
        name: str,
        content: Mapping[str, Any] | None,
        stamp: Stamp | None,
        files: Mapping[str, Any] | None,
        frames: int | None,
    ) -> list[tuple[str, list[Row]]]:
        size, modified = (None, None) if stamp is None else stamp
        key = os.fsencode(name)
        unit: Row = (key, time.time_ns(), size, modified, frames, None, json.dumps(files or {}))
        # a longer version of the video may have been killed before
        shorten = "DELETE FROM contents WHERE name = ? AND frame >= ?"
        statements: list[tuple[str, list[Row]]] = [(ADD_UNIT, [unit]), (shorten, [(key, frames or 0)])]
        if frames is None:
            statements.append((ADD_CONTENT, [(key, 0, json.dumps(content))]))
        return statements

    def add_frame(self, name: str, frame: int, content: Mapping[str, Any]) -> None:
        """Note a frame of a video; it counts when the video is finished."""
        with self._mutex:
            self._frames.append((os.fsencode(name), frame, json.dumps(content)))
            if len(self._frames) < PAGE:
                return
        self._write()

    def fail(self, name: str, problem: str) -> None:
        """Note why a picture failed; it is not finished."""
        row = (os.fsencode(name), time.time_ns(), None, None, None, printable(problem), None)
        self._write((ADD_UNIT, [row]))

    def forget(self, names: Iterable[str]) -> None:
        """Take back what was said of pictures, by whatever process."""
        self._write((ADD_UNIT, [(os.fsencode(name), time.time_ns(), *[None] * 5) for name in names]))

    def _write(self, *statements: tuple[str, Iterable[Row]]) -> None:
        connection = self._connection
        if connection is None:
            raise RuntimeError("claim() comes before writing")
        with self._mutex, naming(self._hidden / f"{self.part.stem}.sqlite"), connection:
            connection.executemany(ADD_CONTENT, self._frames)
            self._frames.clear()
            for statement, rows in statements:
                connection.executemany(statement, rows)

    # --- reading ------------------------------------------------------------------------------------------------------
    def units(self) -> Iterator[Unit]:
        """What is known by all processes of every image and video, in the order of names."""
        with self._databases() as databases:
            yield from (unit for _, unit in merged(databases))

    def contents(self) -> Iterator[dict[str, Any]]:
        """The contents of all finished images and frames of finished videos, in the order of names and frames."""
        with self._databases() as databases:
            for database, unit in merged(databases):
                if unit.files is not None:
                    rows = rows_of(database, CONTENTS, -1, os.fsencode(unit.name))
                    yield from (parsed(content, unit.name) for _, content in rows)

    @contextmanager
    def _databases(self) -> Iterator[list[Database]]:
        paths = sorted(self._hidden.glob("part_*.sqlite"))
        with ExitStack() as stack:
            yield [stack.enter_context(closing(connect(path))) for path in paths]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
