"""What a run over many files leaves behind: names that cannot meet, and records that survive a kill."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pe_spatial.common.errors import UserError


def output_stems(names: Iterable[str]) -> dict[str, str]:
    """Names without suffix; where two would meet (`a.jpg`, `a.png`), with it. Independent of their order."""
    names = list(names)
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
    taken = list(stems.values())
    twice = {stem for stem in taken if taken.count(stem) > 1} if len(set(taken)) < len(taken) else set()
    return {name: name if stem in twice else stem for name, stem in stems.items()}


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


class Records:
    """One record per finished picture, so that the next run goes on where this one was stopped.

    A record is a JSON object with `file_name` (relative to the input) and, for a frame of a video, `frame`. They
    are appended to a hidden file, one per process, as pictures are finished; `collect` gives them all for the list
    that a run leaves at its end, and that the next one starts from.

    Args:
        path: of that list, a JSON object with `run` and `files`.
        run: what must be equal for two runs to share a folder, such as the model.
        root: the input folder.
        rank: the number of this process.

    Raises:
        UserError: the folder holds the results of another run.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], root: Path, rank: int = 0) -> None:
        self.path = path
        self.run = dict(run)
        self.root = root
        self.rank = rank
        self._lock = threading.Lock()
        self._journal: IO[str] | None = None
        self._records: dict[str, dict[int | None, dict[str, Any]]] = {}
        if path.is_file():
            content = _read(path)
            self._check(content.get("run"))
            self._remember(content.get("files", []))
        for journal in self._journals():
            self._remember(_read_lines(journal))

    def claim(self, folders: Sequence[Path]) -> None:
        """Begin to write; `folders` are those that only runs like this one write to.

        Raises:
            UserError: they hold files although no run has left a record.
        """
        foreign = next((folder for folder in folders if folder.is_dir() and any(folder.iterdir())), None)
        if foreign is not None and not self.path.is_file() and not self._journals():
            raise UserError(f"{foreign} holds files of unknown origin; give another --output, or move them away")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = self.path.with_name(f".{self.path.stem}.{self.rank}.jsonl")
        self._journal = open(path, "a", encoding="utf-8")  # noqa: SIM115 - stays open until the run ends
        # on a line of its own, for a kill or a full disk may have cut the last one short
        self._journal.write("\n" + json.dumps({"run": self.run}) + "\n")
        self._journal.flush()

    def of(self, name: str) -> dict[int | None, dict[str, Any]]:
        """The records of a file by frame (None: an image), without those of an earlier version of the file."""
        stamp = self._stamp(name)
        return {frame: record for frame, record in self._records.get(name, {}).items() if _is_of(record, stamp)}

    def add(self, record: Mapping[str, Any]) -> None:
        """Note that a picture is finished; safe to call from several threads."""
        if self._journal is None:
            raise RuntimeError("claim() comes before add()")
        stamped = {**record, **self._stamp(record["file_name"])}
        with self._lock:
            self._remember([stamped])
            self._journal.write(json.dumps(stamped) + "\n")
            self._journal.flush()

    def close(self) -> None:
        """Stop writing; what was added stays."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def collect(self) -> list[dict[str, Any]]:
        """The records of all processes, in the order of files and frames."""
        for journal in self._journals():
            self._remember(_read_lines(journal))
        return [
            frames[key] for _, frames in sorted(self._records.items()) for key in sorted(frames, key=lambda k: k or 0)
        ]

    def forget(self) -> None:
        """Remove the hidden files, once the list is written."""
        for journal in self._journals():
            journal.unlink(missing_ok=True)

    def _journals(self) -> list[Path]:
        return sorted(self.path.parent.glob(f".{self.path.stem}.*.jsonl"))

    def _check(self, other: Any) -> None:
        if other != self.run:
            known = other if isinstance(other, dict) else {}
            differing = [key for key in self.run if known.get(key) != self.run[key]]
            difference = ", ".join(f"{key} {known.get(key)!r} instead of {self.run[key]!r}" for key in differing)
            raise UserError(
                f"{self.path.parent} holds the results of another run ({difference}); give another --output"
            )

    def _remember(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            if "run" in record:
                self._check(record["run"])
                continue
            self._records.setdefault(record["file_name"], {})[record.get("frame")] = record

    def _stamp(self, name: str) -> dict[str, int]:
        status = (self.root / name).stat()
        return {"source_bytes": status.st_size, "source_modified_ns": status.st_mtime_ns}


def _is_of(record: Mapping[str, Any], stamp: Mapping[str, int]) -> bool:
    return all(record.get(key) == value for key, value in stamp.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not the list of a run ({error}); give another --output") from None
    return content if isinstance(content, dict) else {}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a hidden file; a kill may have cut the last one short."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        records.append(record)
    return records
