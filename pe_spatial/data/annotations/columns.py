"""Tables of numpy columns that are gathered piece by piece, in memory or in files that all processes map."""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pe_spatial.common.files import write_json

_INDEX = "table.json"
_BLOCK = 64 << 20  # bytes


class DamagedTable(Exception):  # noqa: N818 - no error: the table is made anew
    """Files of a table are missing, or other than they were written."""


class Columns(Mapping[str, NDArray[Any]]):
    """Named arrays of any lengths, and a header of plain values.

    Args:
        arrays: By name.
        header: What JSON holds.
        folder: Where they are mapped from; None for those in memory. Another process that gets the columns maps them
            again, so that only one copy is in memory.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]], header: dict[str, Any], folder: Path | None) -> None:
        self.header = header
        self._arrays = arrays
        self._folder = folder

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._folder is None:
            return Columns, (self._arrays, self.header, None)
        return open_columns, (self._folder, False)


def open_columns(folder: Path, verify: bool = True) -> Columns:
    """Map the columns of a folder.

    Args:
        folder: That a writer has filled.
        verify: Compare the content of every file with its checksum.

    Raises:
        DamagedTable: See there.
    """
    try:
        index = json.loads((folder / _INDEX).read_text("utf-8"))
        arrays = {}
        for name, (kind, shape, checksum) in index["columns"].items():
            path = folder / f"{name}.bin"
            arrays[name] = np.memmap(path, kind, "r", shape=tuple(shape)) if 0 not in shape else np.zeros(shape, kind)
            if path.stat().st_size != arrays[name].nbytes or (verify and _checksum(path) != checksum):
                raise DamagedTable(f"{path} is not what was written")
        return Columns(arrays, index["header"], folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedTable(f"{folder}: {error}") from error


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


class ColumnWriter:
    """Gathers columns.

    Args:
        folder: An empty folder to write to, or None for memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}  # type, and shape of one row
        self._rows: dict[str, int] = {}
        self._files: dict[str, BinaryIO] = {}
        self._pieces: dict[str, list[NDArray[Any]]] = {}

    def append(self, name: str, rows: Any, kind: DTypeLike, width: int | None = None) -> None:
        """Add rows to a column.

        Args:
            name: Of the column.
            rows: An array or a list [N] or [N, width].
            kind: Type of its numbers.
            width: Numbers of a row; None for single ones.
        """
        row = () if width is None else (width,)
        array = np.asarray(rows, kind).reshape(-1, *row)
        if name not in self._kinds:
            self._kinds[name] = array.dtype.str, row
            self._rows[name] = 0
            self._pieces[name] = []
            if self._folder is not None:
                self._files[name] = (self._folder / f"{name}.bin").open("wb")
        self._rows[name] += len(array)
        if self._folder is None:
            self._pieces[name].append(array)
        else:
            self._files[name].write(np.ascontiguousarray(array).data)

    def column(self, name: str) -> NDArray[Any]:
        """What a column holds so far."""
        kind, row = self._kinds[name]
        shape = (self._rows[name], *row)
        if self._folder is None:
            self._pieces[name] = [np.concatenate([np.zeros((0, *row), kind), *self._pieces[name]]).astype(kind)]
            return self._pieces[name][0]
        self._files[name].flush()
        if self._rows[name] == 0:
            return np.zeros(shape, kind)
        return np.memmap(self._folder / f"{name}.bin", kind, "r", shape=shape)

    def drop(self, name: str) -> None:
        """Forget a column that only the making needed."""
        del self._kinds[name], self._rows[name], self._pieces[name]
        if self._folder is not None:
            self._files.pop(name).close()
            (self._folder / f"{name}.bin").unlink()

    def finish(self, header: dict[str, Any]) -> Columns:
        """End the gathering; the index is written last, so that a folder without one is not complete."""
        arrays = {name: self.column(name) for name in self._kinds}
        for file in self._files.values():
            file.close()
        if self._folder is not None:
            described = {
                name: [*self._kinds[name][:1], arrays[name].shape, _checksum(self._folder / f"{name}.bin")]
                for name in arrays
            }
            write_json(self._folder / _INDEX, {"header": header, "columns": described})
        return Columns(arrays, header, self._folder)

    def close(self) -> None:
        """Close the files of a gathering that has failed."""
        for file in self._files.values():
            file.close()
