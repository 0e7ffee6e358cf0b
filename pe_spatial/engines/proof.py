"""What was measured of an exported file, and whether it is still that file: `PROOF.json` beside it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import CheckpointError
from pe_spatial.common.reading import open_regular, read_json

PROOF = "PROOF.json"
_CHUNK = 2**22


@dataclass(frozen=True)
class Proof:
    """The proof of an exported file.

    Args:
        path: Of the record.
        files: SHA-256 of the file and of those that belong to it, by their names.
        engines: What was measured with each engine; `passed` says whether it held, `seconds` the time of a pass.
    """

    path: Path
    files: Mapping[str, str]
    engines: Mapping[str, Mapping[str, Any]]

    @property
    def passed(self) -> list[str]:
        """Engines whose proof held, the fastest first."""
        good = {name: entry for name, entry in self.engines.items() if entry.get("passed") is True}
        return sorted(good, key=lambda name: good[name]["seconds"])

    def check_files(self) -> None:
        """Compare the files with their hashes.

        Raises:
            CheckpointError: One is missing, or not the one that was proven.
        """
        for name, digest in self.files.items():
            path = self.path.parent / name
            if not path.is_file():
                raise CheckpointError(f"{path}: is missing, and {self.path.name} names it; copy the whole folder")
            if sha256(path) != digest:
                raise CheckpointError(
                    f"{path}: is not the file that {self.path} proves (its SHA-256 is {sha256(path)[:12]}…, not "
                    f"{digest[:12]}…): it was changed or damaged; copy the folder again, or export again"
                )


def proof_of(path: str | Path) -> Proof | None:
    """The proof beside an exported file; None where there is none.

    Raises:
        CheckpointError: A record that is damaged, or of another file.
    """
    path = Path(path)
    record = path.parent / PROOF
    if not record.is_file():
        return None
    try:
        content = read_json(record, {"files": dict, "engines": dict})
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{error}; export again") from error
    if path.name not in content["files"]:
        raise CheckpointError(
            f"{record} is the proof of {', '.join(sorted(content['files']))}, not of {path.name}; export again"
        )
    return Proof(record, content["files"], content["engines"])


def sha256(path: Path) -> str:
    """The SHA-256 of a file; read once for each state of it."""
    status = path.stat()
    return _sha256(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _sha256(path: str, changed: int, size: int) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def names_of(paths: Sequence[Path]) -> dict[str, str]:
    """The hashes of files by their names."""
    return {path.name: sha256(path) for path in paths}
