"""Tensor files on disk: verified and read without executing anything and without copying, written whole or not at all.

A torch archive has a checksum of each of its parts; a safetensors file of ours has a hash of its content in its
metadata. What they say is compared with what is there, once per process for each state of a file.
"""

import json
import pickle
import re
import shutil
import signal
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pe_spatial.common.errors import FullDiskError, UserError, few
from pe_spatial.common.files import atomic_path, full_disk, write_atomically
from pe_spatial.common.integrity import content_hash, damaged_parts, not_finite, once_per_file, oversized

SUFFIXES = (".pt", ".pth", ".safetensors")
CONTENT_HASH = "content_hash"

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
# how torch's restricted unpickler names what it refuses
_CODE = re.compile(r"(?:GLOBAL|unrecognized function|but got) (\S+)")
_LONGEST = 200  # characters of a name in a message

Shapes = Mapping[str, torch.Size]


class WeightsError(UserError, ValueError):
    """Weights that cannot be used as asked; the message says which rule they break and what to do."""


class Misfit:
    """How tensors differ in names and shapes from those of a model; as text, in one line, empty if they fit.

    Args:
        found: Those that are there.
        expected: Those of the model.

    Attributes:
        missing: Names that only the model has.
        unexpected: Names that the model does not have.
        reshaped: Names of tensors of another shape.
    """

    def __init__(self, found: Shapes, expected: Shapes) -> None:
        self.missing = [key for key in expected if key not in found]
        self.unexpected = [key for key in found if key not in expected]
        self.reshaped = [key for key in expected if key in found and found[key] != expected[key]]
        self._shapes = found, expected

    def __str__(self) -> str:
        found, expected = self._shapes
        count = len(expected)
        parts = {
            "missing": self.missing,
            "unexpected": [f"{key[:_LONGEST]}{self._nearest(key)}" for key in self.unexpected[:3]]
            + self.unexpected[3:],
            "of another shape": [f"{key} is {list(found[key])}, not {list(expected[key])}" for key in self.reshaped],
        }
        return "; ".join(f"{len(keys)} of {count} keys {what} ({few(keys)})" for what, keys in parts.items() if keys)

    def _nearest(self, key: str) -> str:
        close = get_close_matches(key[:_LONGEST], self.missing, n=1, cutoff=0.8)
        return f" (nearest missing: {close[0]})" if close else ""


def shapes_of(tensors: Mapping[str, Any]) -> Shapes:
    """The shapes by the names; what is no tensor has that of a number."""
    return {key: getattr(tensor, "shape", torch.Size()) for key, tensor in tensors.items()}


def read_tensor_file(path: Path) -> Mapping[str, Any]:
    """Return the mapping stored in a `.pt`, `.pth` or `.safetensors` file; the content decides, not the suffix.

    Tensors lie on the CPU and are views of the mapped file: pages are read when touched, and written-to pages become
    private, so the file never changes. Only torch's format before version 1.6 has to be read into memory.

    Raises:
        WeightsError: the file is empty, a Git LFS pointer, an HTML page, truncated or damaged, needs code to be
            unpickled, holds something else than a mapping, or changes while it is read.
    """
    before = path.stat()
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_impostors(path, head)
    if head[8:9] != b"{" and not head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        raise WeightsError(
            f"{path} is neither a torch nor a safetensors file (it begins with {head[:8]!r}): it is damaged or another "
            "kind of file; download it again or give another file"
        )
    try:
        content = _read_safetensors(path) if head[8:9] == b"{" else _read_torch(path, head.startswith(_ZIP_MAGIC))
    except (OSError, ImportError, MemoryError, WeightsError):
        raise
    except Exception as error:  # on damaged archives and damaged pickles the readers raise almost anything
        raise _unreadable(path, error) from error
    after = path.stat()
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise WeightsError(f"{path} changed while it was read; run the command again")
    if large := list(oversized(content)):
        raise WeightsError(f"{path} is damaged: {few(large)} would need more than the free memory; download it again")
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} contains a {type(content).__name__}, not a mapping of names to tensors; save a state dict"
        )
    return content


def _read_torch(path: Path, is_archive: bool) -> Any:  # noqa: ANN401 - whatever was saved
    can_map = is_archive
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
        inside = {part.filename.partition("/")[2] for part in parts}
        if "data.pkl" not in inside or "constants.pkl" in inside:
            kind = "a TorchScript program" if "constants.pkl" in inside else "a zip archive"
            raise WeightsError(
                f"{path} is {kind}, not a torch checkpoint (it contains {few(part.filename for part in parts)}); save "
                "the state dict of its model (torch.save(model.state_dict(), ...))"
            )
        once_per_file(path, "checksums", lambda: _verify_archive(path))
        can_map = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Validating sparse")  # they are refused where weights are expected
        # weights_only refuses pickles that call code; there is no fallback
        return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)


def _verify_archive(path: Path) -> None:
    if damaged := damaged_parts(path):
        raise WeightsError(
            f"{path} is damaged: {len(damaged)} of its parts have a wrong checksum ({few(damaged)}); delete it "
            "and download it again"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        stored = (file.metadata() or {}).get(CONTENT_HASH)
    if stored is not None:
        once_per_file(path, CONTENT_HASH, lambda: verify_hash(path, tensors, stored))
    return tensors


def verify_hash(path: Path, tensors: Mapping[str, Any], stored: object) -> None:
    """Raise WeightsError where the hash of tensors is not the stored one: they are not those that were saved."""
    if content_hash(tensors) != stored:
        raise WeightsError(
            f"{path} is damaged: its tensors have changed since they were saved (their hash differs from its "
            f"{CONTENT_HASH}); delete it and download it again, or remove that entry if you changed the weights "
            "yourself"
        )


def require_finite(path: Path, tensors: Any) -> None:  # noqa: ANN401 - nested containers of tensors
    """Refuse weights that hold NaN or Inf.

    Raises:
        WeightsError: Names the tensors.
    """
    broken = list(not_finite(tensors))
    if broken:
        raise WeightsError(
            f"{path}: NaN or Inf in {len(broken)} tensor{'s' * (len(broken) > 1)} ({few(broken)}); the file is damaged "
            "or its training diverged: download it again or use an earlier checkpoint"
        )


def _refuse_impostors(path: Path, head: bytes) -> None:
    if not head:
        raise WeightsError(f"{path} is empty: its download or copy did not start; delete it and download it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` or download the file")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is an HTML page, not a torch checkpoint: a login or error page was saved in its place; open the "
            "address in a browser, or download with the Hugging Face client"
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = str(error)
    culprit = _CODE.search(reason) if isinstance(error, pickle.UnpicklingError) else None
    if culprit:
        return WeightsError(
            f"{path} stores Python objects ({culprit.group(1).rstrip('.')}) besides tensors, and unpickling them could "
            "run any code: refused. Save only its state dict (torch.save(model.state_dict(), ...)), or convert it to "
            ".safetensors where you trust it"
        )
    first_line = reason.strip().splitlines()[0] if reason.strip() else type(error).__name__
    return WeightsError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated or corrupt ({first_line[:160]}); "
        "delete it and download it again"
    )


def write_tensor_file(
    tensors: Mapping[str, Tensor], path: Path, wrap: str | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a file whose suffix decides the format; readers see the old file or the whole new one.

    Args:
        tensors: What to write.
        path: Ends in `.pt`, `.pth` or `.safetensors`.
        wrap: Key under which a `.pt` or `.pth` file nests the tensors; safetensors files are always flat.
        metadata: More texts in the header of a safetensors file.

    Raises:
        WeightsError: Another suffix.
        OSError: The folder does not exist or cannot be written, or the disk is full; no partial file stays behind.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{path} ends in {path.suffix or 'no suffix'!r}; a tensor file ends in {', '.join(SUFFIXES)}"
        )
    # a strided view would drag its whole storage into the file
    flat = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    if path.suffix == ".safetensors":
        _write_safetensors(_unshared(flat), path, metadata or {})
    else:
        write_torch_file({wrap: flat} if wrap else flat, path)


def write_torch_file(content: Any, path: Path) -> None:  # noqa: ANN401 - nested containers of tensors
    """Stream containers of tensors to a torch file, without a second copy of them in memory.

    Raises:
        FullDiskError: Names the bytes that are needed and free.
        OSError: The folder does not exist or cannot be written; no partial file stays behind.
    """
    needed = tensor_bytes(content)
    if needed > shutil.disk_usage(path.parent).free:
        raise full_disk(path, needed)
    try:
        with _uninterrupted():
            write_atomically(path, lambda file: _stream(content, file))
    except FullDiskError as error:
        raise full_disk(path, needed) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait for the end of the block: torch's C++ writer makes an error of its own of them."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in that one alone
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in arrived[:1]:
            signal.raise_signal(first)


def _stream(content: Any, file: IO[bytes]) -> None:
    guarded = _Guarded(file)
    torch.save(content, guarded)  # type: ignore[arg-type]
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
        """Do nothing: torch calls it, and the file itself is flushed after the last write."""


def tensor_bytes(tree: Any) -> int:  # noqa: ANN401 - nested containers of tensors
    """Bytes of all tensors in nested containers."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(map(tensor_bytes, tree.values()))
    return sum(map(tensor_bytes, tree)) if isinstance(tree, list | tuple) else 0


def _write_safetensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        temporary.touch()  # fails with the system's own words where the folder cannot be written
        try:
            save_file(tensors, temporary, {**metadata, "format": "pt", CONTENT_HASH: content_hash(tensors)})
            _sort_metadata(temporary)
        except SafetensorError as error:  # how it reports what the system refused
            raise full_disk(path, tensor_bytes(tensors)) from error


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file, whose order the library draws, in order: equal tensors, equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share their memory with an earlier one; safetensors refuses those."""
    seen: set[int] = set()
    result = {}
    for key, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result
