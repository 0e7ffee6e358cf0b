"""`open_features`: what `pe-spatial features` has written, in any format, as arrays by names."""

import json
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import UnknownName, UnreadableFile, UserError, suggest
from pe_spatial.common.reading import read_json
from pe_spatial.data.annotations import file_below
from pe_spatial.features.writer import LIST
from pe_spatial.features.zarr_store import PLACE, require_zarr

Arrays = dict[str, NDArray[Any]]

_FIELDS: dict[str, type] = {"format_version": int, "format": str, "layers": list, "rule": dict, "features": list}
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


class FeatureFolder(Mapping[str, Arrays]):
    """A mapping from the names of pictures to their features, an array for each layer.

    Arrays are maps of the files, which are read when they are touched; those of bf16, which NumPy does not know, are
    copies in float32. A frame of a video is called `film.mp4/000012`.

    Args:
        folder: That `pe-spatial features` has written.

    Attributes:
        folder: Of the features.
        format: `safetensors`, `npy`, `zarr` or `tar`.
        layers: The keys of the arrays of a picture.
        rule: What the features depend on: encoder, hash of its weights, layers, resizing, normalization, type.
        names: Of the pictures and frames, in the order of the list.
        entries: What the list says of each: file_name, source_size, size, grid, and of a frame its number and time.

    Raises:
        UnreadableFile: There are no features, or their list is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / LIST
        if not path.is_file():
            raise UnreadableFile(f"{path}: no such file; pe-spatial features writes it at its end")
        content = read_json(path, _FIELDS)
        self.format: str = content["format"]
        self.layers: tuple[str, ...] = tuple(content["layers"])
        self.rule: dict[str, Any] = content["rule"]
        self.entries: list[dict[str, Any]] = content["features"]
        if self.format not in _READERS:
            raise UnreadableFile(f"{path}: format {self.format!r} is not one of {', '.join(_READERS)}")
        self._entries = {_name_of(entry): entry for entry in self.entries}
        self.names: tuple[str, ...] = tuple(self._entries)

    def __getitem__(self, name: str) -> Arrays:
        """The arrays of a picture or a frame.

        Raises:
            UnknownName: There is no such picture.
            UnreadableFile: Its file is missing or damaged.
        """
        if name not in self._entries:
            raise UnknownName(f"{self.folder} has no features of {name!r}; {suggest(name, self.names)}")
        entry = self._entries[name]
        try:
            return _READERS[self.format](self.folder, entry, self.layers)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, struct.error, tarfile.TarError) as error:
            raise UnreadableFile(f"{self.folder}: the features of {name} cannot be read ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def stack(self, layer: str | None = None) -> NDArray[Any]:
        """The arrays [N, ...] of a layer, in the order of `names`, in memory.

        Args:
            layer: One of `layers`; None where there is only one.

        Raises:
            UserError: No such layer, or arrays of several shapes.
        """
        if layer is None and len(self.layers) > 1 or layer is not None and layer not in self.layers:
            raise UnknownName(f"layer {layer!r} is not one of {', '.join(self.layers)}")
        key = layer or self.layers[0]
        arrays = [self[name][key] for name in self.names]
        shapes = list(dict.fromkeys(array.shape for array in arrays))
        if len(shapes) != 1:
            shown = " and ".join(map(str, shapes[:2])) or "none at all"
            raise UserError(f"arrays of shape {shown} cannot be stacked; pool them (--pool mean), or --resize square")
        return np.stack(arrays)


def open_features(folder: str | Path) -> FeatureFolder:
    """Open the features in a folder that `pe-spatial features` wrote; see `FeatureFolder`."""
    return FeatureFolder(folder)


def _name_of(entry: Mapping[str, Any]) -> str:
    return entry["file_name"] if "frame" not in entry else f"{entry['file_name']}/{entry['frame']:06d}"


# --- one reader for each format ---------------------------------------------------------------------------------------
def _file_of(folder: Path, entry: Mapping[str, Any]) -> Path:
    return file_below(folder, entry["features"], str(folder / LIST))


def _read_safetensors(folder: Path, entry: Mapping[str, Any], layers: Sequence[str]) -> Arrays:
    path = _file_of(folder, entry)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    arrays: Arrays = {}
    for layer in layers:
        described = header[layer]
        shape, kind = tuple(described["shape"]), _TYPES[described["dtype"]]
        begin = 8 + length + described["data_offsets"][0]
        array: NDArray[Any] = np.memmap(path, kind, "r", begin, shape)
        arrays[layer] = _widened(array) if described["dtype"] == "BF16" else array
    return arrays


def _widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """bfloat16 as float32, whose upper half it is."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _read_npy(folder: Path, entry: Mapping[str, Any], layers: Sequence[str]) -> Arrays:
    stacked = np.load(_file_of(folder, entry), mmap_mode="r", allow_pickle=False)
    return dict(zip(layers, stacked, strict=True))


def _read_tar(folder: Path, entry: Mapping[str, Any], layers: Sequence[str]) -> Arrays:
    path = _file_of(folder, entry)
    state = path.stat()
    places = _members(path, state.st_mtime_ns, state.st_size)
    return {layer: _npy_at(path, places[f"{entry['key']}.{layer}.npy"]) for layer in layers}


@lru_cache(maxsize=64)
def _members(path: Path, modified: int, size: int) -> dict[str, int]:
    """Where the content of each member of a tar begins; the other arguments tell one state of it from another."""
    with tarfile.open(path, "r:") as tar:
        return {member.name: member.offset_data for member in tar}


def _npy_at(path: Path, place: int) -> NDArray[Any]:
    with open(path, "rb") as file:
        file.seek(place)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        if kind.hasobject:
            raise ValueError("it contains Python objects")
        return np.memmap(path, kind, "r", file.tell(), shape)


def _read_zarr(folder: Path, entry: Mapping[str, Any], layers: Sequence[str]) -> Arrays:
    root = _open_zarr(folder / PLACE)
    arrays: Arrays = {}
    for layer in layers:
        place, _, chunk = entry[layer].removeprefix(f"{PLACE}/").rpartition("/c/")
        array = root[place]
        is_alone = place != layer and "frame" not in entry  # an array of its own
        arrays[layer] = array[...] if is_alone else array[int(chunk.partition("/")[0])]
    return arrays


@lru_cache(maxsize=4)
def _open_zarr(path: Path) -> Any:  # noqa: ANN401 - a group of zarr
    return require_zarr().open_group(path, mode="r", zarr_format=3)


_READERS = {"safetensors": _read_safetensors, "npy": _read_npy, "zarr": _read_zarr, "tar": _read_tar}
