"""Checkpoint files: written whole or not at all, loaded without running code, found after a crash.

A file is a torch zip archive with mmengine's keys (`meta`, `state_dict`, `message_hub`, `optimizer`,
`param_schedulers`) and the key `pe_spatial`: {format_version, config (JSON of the resolved config), metainfo of the
dataset, log_history}. It holds tensors and plain containers only, so that torch's weights-only loader can read it.
"""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from pe_spatial.common.errors import CheckpointError
from pe_spatial.training.old_names import update_names

FORMAT_VERSION = 1
LAST_POINTER = "last_checkpoint"  # holds a file name; mmengine's name for it
BEST_POINTER = "best_checkpoint.json"
_TEMPORARY = ".writing"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- writing ----------------------------------------------------------------------------------------------------------
def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place; `path` is old or new, never in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_full_disk(error: OSError) -> bool:
    """Whether a write failed for want of space, be it of the disk, a quota or a limit."""
    return error.errno in _NO_SPACE


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Stream a checkpoint to disk; no second copy of it is made in memory.

    Raises:
        CheckpointError: The disk is full. Nothing was changed.
    """
    needed = tensor_bytes(checkpoint)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise CheckpointError(_full_disk(path, needed, free))
    try:
        write_atomically(path, lambda file: _stream(checkpoint, file))
    except OSError as error:
        if not is_full_disk(error):
            raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
        raise CheckpointError(_full_disk(path, needed, shutil.disk_usage(path.parent).free)) from error


def _stream(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    guarded = _Guarded(file)
    torch.save(checkpoint, guarded)  # type: ignore[arg-type]
    if guarded.error:
        raise guarded.error


class _Guarded:
    """A file that keeps its first error and drops what follows.

    torch's C++ writer answers an exception of `write` with one of its own, which names neither the cause nor the path.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return self.file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        """torch calls it; the file itself is flushed after the last write."""


def tensor_bytes(tree: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, dict):
        return sum(map(tensor_bytes, tree.values()))
    return sum(map(tensor_bytes, tree)) if isinstance(tree, list | tuple) else 0


def remove_temporaries(folder: Path) -> None:
    """Delete what an interrupted write left behind."""
    for leftover in folder.glob(f".*{_TEMPORARY}"):
        leftover.unlink(missing_ok=True)


def _full_disk(path: Path, needed: int, free: int) -> str:
    return (
        f"{path}: the disk is full: the checkpoint needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; free "
        "some space or set another --work-dir. Earlier checkpoints are untouched: continue with --resume"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- loading ----------------------------------------------------------------------------------------------------------
def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, memory-mapped on the CPU: copied page by page as it is used.

    Raises:
        CheckpointError: No such file, a truncated one, one that is no checkpoint, or one that holds Python objects.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    is_archive = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except (UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if is_archive and isinstance(error, UnpicklingError):
            reason = f"it holds Python objects, which are never unpickled here ({str(error).splitlines()[0]})"
        else:
            reason = "it is truncated or not a torch checkpoint; take an earlier one or copy it again"
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes) cannot be loaded: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict of weights")
    return content


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """mmengine's way to a local file; its own falls back to unpickling anything.

    The content stays on the CPU whatever mmengine asks for: a second copy of the weights and of the optimizer's state
    on the GPU would double the memory that a resume needs.
    """
    return load_checkpoint(filename)


def read_config(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The resolved config that a checkpoint was trained with.

    Raises:
        CheckpointError: Not one of our checkpoints.
    """
    described = checkpoint.get("pe_spatial")
    if not isinstance(described, dict) or "config" not in described:
        raise CheckpointError(
            f"{path}: holds weights but no config (keys: {', '.join(map(str, list(checkpoint)[:8]))}); only "
            "checkpoints written by tools/train_net.py or tools/convert_weights.py describe themselves"
        )
    if described["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {described['format_version']} is newer than {FORMAT_VERSION}; update pe_spatial"
        )
    return update_names(json.loads(described["config"]))


# --- finding ----------------------------------------------------------------------------------------------------------
def find_last(folder: Path) -> Path | None:
    """The newest complete training checkpoint, or None. A truncated file is passed over."""
    pointer = folder / LAST_POINTER
    candidates = [folder / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
    candidates += sorted(folder.glob("iter_*.pth"), key=iteration_of, reverse=True)
    return next((path for path in candidates if zipfile.is_zipfile(path)), None)


def find_best(folder: Path) -> Path | None:
    """The checkpoint with the best metric so far, or None."""
    record = read_best(folder)
    path = folder / record["file"] if record else None
    return path if path and zipfile.is_zipfile(path) else None


def read_best(folder: Path) -> dict[str, Any] | None:
    """{file, metric, score, iter} of the best checkpoint so far."""
    pointer = folder / BEST_POINTER
    return json.loads(pointer.read_text()) if pointer.is_file() else None


def iteration_of(path: Path) -> int:
    """The iteration in the name of a checkpoint file, -1 if it has none."""
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else -1
