"""Whether a tensor file holds what was written: the checksums of an archive, a hash of tensors, and finite numbers."""

import hashlib
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.memory import available_memory

_BLOCK = 2**20  # bytes read at once
_MOST_THREADS = 8
# a file that was written so shortly before may be written again without a later time
_SETTLED = 10**9  # nanoseconds

_passed: set[tuple[object, ...]] = set()


def once_per_file(path: Path, what: str, check: Callable[[], None]) -> None:
    """Run a check of a file, which raises where it fails, unless this process ran it on the same state of the file.

    Args:
        path: Of the file.
        what: Name of the check.
        check: The check.
    """
    state = path.stat()
    key = (what, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key in _passed:
        return
    settled = time.time_ns() - state.st_mtime_ns > _SETTLED
    check()
    if settled:
        _passed.add(key)


def damaged_parts(path: Path) -> list[str]:
    """Names of the parts of a zip archive whose bytes do not have their checksum; all bytes are read, by threads.

    Raises:
        Exception: The directory of the archive is cut or contradicts itself; zipfile raises almost anything then.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()

    def check(some: list[zipfile.ZipInfo]) -> list[str]:
        # an archive of its own for each thread: Python 3.13.0 mixes up the places of threads that share one
        with zipfile.ZipFile(path) as archive:
            return [part.filename for part in some if not _is_sound(archive, part)]

    count = _thread_count()
    with _threads() as pool:
        found = {name for names in pool.map(check, [parts[first::count] for first in range(count)]) for name in names}
    return [part.filename for part in parts if part.filename in found]


def _is_sound(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    """Whether the bytes of a part have its checksum."""
    try:
        with archive.open(part) as content:
            while content.read(_BLOCK):
                pass
    except OSError:
        raise
    except Exception:  # a wrong checksum, or a header that contradicts the directory
        return False
    return True


def content_hash(tensors: Mapping[str, Any]) -> str:
    """A hash of names, types, shapes and values, whatever file they are in; what is no dense tensor does not count."""
    dense = {name: tensor for name, tensor in tensors.items() if _is_dense(tensor)}

    def line(name: str) -> str:
        tensor = dense[name]
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{name} {tensor.dtype} {list(tensor.shape)} {zlib.crc32(data.data):08x}\n"

    with _threads() as pool:
        return hashlib.sha256("".join(pool.map(line, sorted(dense))).encode(errors="surrogateescape")).hexdigest()


def not_finite(tree: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - nested containers of tensors
    """Dotted names of the tensors in nested containers that hold NaN or Inf; one pass, nothing is allocated."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif _is_dense(tree) and tree.numel() and (tree.is_floating_point() or tree.is_complex()):
        numbers = torch.view_as_real(tree.resolve_conj()) if tree.is_complex() else tree
        if numbers.element_size() < 2:  # the types of 8 bits know no extremes
            numbers = numbers.float()
        # the extremes of a tensor are finite exactly when all of it is: aminmax propagates NaN
        if not all(extreme.isfinite() for extreme in torch.aminmax(numbers)):
            yield name


def layout_of(tensor: Tensor) -> str:
    """In a word: dense, nested, quantized, meta (without values), or how it is sparse."""
    if tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return "nested" if tensor.is_nested else "quantized" if tensor.is_quantized else "meta"
    return "dense" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def oversized(tree: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401 - nested containers of tensors
    """Dotted names of the tensors that the memory cannot hold, for strides may repeat what is stored once."""
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from oversized(value, f"{name}.{key}" if name else str(key))
    elif _is_dense(tree):
        size = tree.numel() * tree.element_size()
        if size > tree.untyped_storage().nbytes() and size > available_memory():
            yield name


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and layout_of(value) == "dense"


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_thread_count())


def _thread_count() -> int:
    """As many as torch uses, which the processes of a machine share."""
    return min(torch.get_num_threads(), _MOST_THREADS)
