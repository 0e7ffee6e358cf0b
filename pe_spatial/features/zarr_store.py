"""Features as arrays of Zarr (format 3), a chunk for each picture.

    OUT/features.zarr/layer_5             [N, ...], where all pictures have one size; the attribute `names` of the group
                                          says which row is which, and rows without a picture are NaN
    OUT/features.zarr/STEM/layer_5        where they have several sizes
    OUT/features.zarr/STEM/layer_5        [T, ...] of a video; the attribute `times` of its group are seconds

The rule is the attribute `pe_spatial` of the outermost group.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from pe_spatial.common.errors import MissingPackage, UserError
from pe_spatial.common.files import write_atomically
from pe_spatial.features.stores import METADATA, Store, array_of

PLACE = "features.zarr"

Values = np.ndarray[Any, Any]


class ZarrStore(Store):
    """Arrays of Zarr; the library itself writes every chunk whole or not at all.

    Args:
        output: See `Store`.
        names: See `Store`.
        description: See `Store`.
        rows: Names of the pictures in the order of rows; None where they have several sizes, or are frames.
        alone: Keeps the other processes away while metadata are written.

    Raises:
        MissingPackage: zarr is not installed.
    """

    places = (PLACE,)

    def __init__(
        self,
        output: Path,
        names: Sequence[str],
        description: Mapping[str, Any],
        rows: Sequence[str] | None,
        alone: AbstractContextManager[Any],
    ) -> None:
        super().__init__(output, names, description)
        self.kinds = self.names
        self._zarr = require_zarr()
        self._rows = None if rows is None else {name: row for row, name in enumerate(rows)}
        self._alone = alone
        self._lock = threading.RLock()
        self._root: Any = None
        self._arrays: dict[str, Any] = {}

    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """See `Store`."""
        arrays = {layer: array_of(values) for layer, values in features.items()}
        if self._rows is None and frame is None:
            return {layer: self._put_alone(f"{stem}/{layer}", values, facts) for layer, values in arrays.items()}
        group = "" if self._rows is not None else f"{stem.rpartition('/')[0]}/"
        row = self._rows[name] if self._rows is not None else frame or 0
        return {layer: self._put_row(f"{group}{layer}", row, values) for layer, values in arrays.items()}

    def _put_alone(self, path: str, values: Values, facts: Mapping[str, Any]) -> str:
        with self._lock, self._alone:
            array = self._open().create_array(
                path, shape=values.shape, chunks=values.shape, attributes=facts, overwrite=True, **_options(values)
            )
        array[...] = values
        return _chunk(path, *[0] * values.ndim)

    def _put_row(self, path: str, row: int, values: Values) -> str:
        array = self._stack(path, values)
        if row >= array.shape[0]:
            with self._lock:
                if row >= array.shape[0]:
                    array.resize((row + 1, *values.shape))
        if array.shape[1:] != values.shape:
            raise UserError(
                f"{path}: features of {list(values.shape)} do not fit the others of {list(array.shape[1:])}; a picture "
                "has changed since its size was read; give another --output"
            )
        array[row] = values
        return _chunk(path, row, *[0] * values.ndim)

    def _stack(self, path: str, values: Values) -> Any:  # noqa: ANN401 - an array of zarr
        """The array whose rows are pictures or frames; it is made for the first."""
        with self._lock:
            if path not in self._arrays:
                shape, chunks = (len(self._rows or ()), *values.shape), (1, *values.shape)
                with self._alone:
                    group = self._open()
                    if path not in group:
                        group.create_array(path, shape=shape, chunks=chunks, **_options(values))
                    self._arrays[path] = group[path]
            return self._arrays[path]

    def _open(self) -> Any:  # noqa: ANN401 - a group of zarr
        if self._root is None:
            names = {} if self._rows is None else {"names": list(self._rows)}
            self._root = self._zarr.open_group(_store_of(self.output / PLACE), mode="a", zarr_format=3)
            if METADATA not in self._root.attrs:
                self._root.update_attributes({METADATA: self.description, **names})
        return self._root

    def finish_video(self, name: str, stem: str, times: Sequence[float | None]) -> None:
        """See `Store`."""
        with self._lock:
            for layer in self.names:
                array = self._arrays.pop(f"{stem}/{layer}")
                array.resize((len(times), *array.shape[1:]))
            self._open()[stem].update_attributes({"times": list(times)})

    def discard_video(self, name: str, stem: str) -> None:
        """See `Store`."""
        with self._lock, self._alone:
            for layer in self.names:
                self._arrays.pop(f"{stem}/{layer}", None)
            if stem in self._open():
                del self._open()[stem]


def _options(values: Values) -> dict[str, Any]:
    # a chunk of zeros is written too, for its file says that the picture is there
    options = {"dtype": values.dtype, "fill_value": float("nan"), "compressors": None}
    return {**options, "config": {"write_empty_chunks": True}}


def _chunk(path: str, *numbers: int) -> str:
    return f"{PLACE}/{path}/c/{'/'.join(map(str, numbers))}"


def _store_of(path: Path) -> Any:  # noqa: ANN401 - a store of zarr
    """A folder as a store that writes through our own door: what a kill leaves is known, and a full disk is named."""
    from zarr.storage import LocalStore

    class DurableStore(LocalStore):
        async def set(self, key: str, value: Any) -> None:  # noqa: ANN401 - a buffer of zarr
            await asyncio.to_thread(_write, self.root / key, value.to_bytes())

        async def set_if_not_exists(self, key: str, value: Any) -> None:  # noqa: ANN401 - a buffer of zarr
            if not (self.root / key).exists():
                await self.set(key, value)

    return DurableStore(path)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def require_zarr() -> ModuleType:
    """The package zarr.

    Raises:
        MissingPackage: It is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingPackage("zarr is not installed; pip install 'pe_spatial[zarr]'") from error
    return zarr
