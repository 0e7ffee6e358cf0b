"""Maps of a frozen encoder on disk: computed once for every training picture, so that training runs the head alone.

    FOLDER/KEY/cache.json         what the maps are of; KEY is its hash, so that another encoder, pipeline, list of
                                  pictures or number of views gets a cache of its own
    FOLDER/KEY/map-0.npy          float16 [views * pictures, C, h, w]: the first map of the backbone; and so on
    FOLDER/KEY/gt_sem_seg.npy     the labels of the same views, as the loss is given them; or gt_depth.npy
    FOLDER/KEY/done.npy           uint8 [views * pictures]: which rows are complete

Row `view * pictures + picture` is the picture after the training pipeline of draw number `row`, so the views are a
function of the seed. The files are as large as they become from the beginning, are mapped into memory and written in
place; a row counts when its mark is written, after its maps, so the same command goes on after an interruption.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.common.files import full_disk, write_json
from pe_spatial.common.integrity import content_hash
from pe_spatial.data import Draw
from pe_spatial.data.stacked import StackedSamples, stack_labels

_VERSION = 1
_FIELDS = ("gt_sem_seg", "gt_depth")  # labels of pixels
_SPARE = 1.02  # of the disk, for what the file system keeps
Arrays = dict[str, np.memmap[Any, Any]]


class FeatureCache:
    """A cache that exists, complete or not.

    Args:
        folder: Of this cache.
        rows: Views times pictures.
        shapes: Of one row of every file but `done`, with its type: (shape, dtype).

    Raises:
        FullDiskError: The disk has no room for it.
        UserError: A file of it is damaged.
    """

    def __init__(self, folder: Path, rows: int, shapes: Mapping[str, tuple[Sequence[int], str]]) -> None:
        self.folder = folder
        self.rows = rows
        self.arrays: Arrays = {}
        files = {**shapes, "done": ((), "uint8")}
        sizes = {name: rows * int(np.prod(shape)) * np.dtype(kind).itemsize for name, (shape, kind) in files.items()}
        missing = sum(size for name, size in sizes.items() if not self._path(name).is_file())
        folder.mkdir(parents=True, exist_ok=True)
        if missing * _SPARE > shutil.disk_usage(folder).free:
            raise full_disk(folder, int(missing * _SPARE))
        for name, (shape, kind) in files.items():
            path = self._path(name)
            mode, whole = ("r+", None) if path.is_file() else ("w+", (rows, *shape))
            try:
                array = np.lib.format.open_memmap(path, mode=mode, dtype=np.dtype(kind), shape=whole)
            except ValueError as error:
                raise UserError(
                    f"{path} is damaged ({error}); delete {folder} and run again to make a new one"
                ) from error
            if array.shape != (rows, *shape) or array.dtype != kind:
                raise UserError(
                    f"{path} is damaged (another shape or type); delete {folder} and run again to make a new one"
                )
            self.arrays[name] = array
        self.done = self.arrays.pop("done")

    def missing(self) -> list[int]:
        """Rows that are not complete."""
        return np.flatnonzero(self.done == 0).tolist()

    def write(self, rows: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Write some rows; they count when all of their files hold them."""
        for name, array in self.arrays.items():
            array[list(rows)] = values[name].detach().cpu().numpy().astype(array.dtype)
            array.flush()
        self.done[list(rows)] = 1
        self.done.flush()

    def read(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """What the files hold for some rows."""
        return {name: torch.from_numpy(array[list(rows)]) for name, array in self.arrays.items()}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


def values_of(maps: Sequence[Tensor], samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
    """What a cache holds of a batch, by the names of its files.

    Raises:
        ConfigError: Labels that are none of pixels.
    """
    fields = [field for field in _FIELDS if field in samples[0]]
    if not fields:
        raise ConfigError("cached features work only for semantic segmentation and depth; leave out --cache-features")
    values = {f"map-{number}": item for number, item in enumerate(maps)}
    return values | {field: stack_labels(samples, field) for field in fields}


def open_cache(folder: Path, header: dict[str, Any], rows: int, first: Mapping[str, Tensor]) -> FeatureCache:
    """Begin the cache of what a header describes, or go on with it.

    Args:
        folder: Of all caches.
        header: What maps and labels depend on.
        rows: Views times pictures.
        first: The values of a batch, for their shapes.
    """
    shapes: dict[str, tuple[list[int], str]] = {}
    for name, values in first.items():
        kind = "float16" if name.startswith("map-") else "float32" if values.is_floating_point() else "uint8"
        if kind == "uint8" and int(values.max()) > 255:
            kind = "int32"
        shapes[name] = (list(values.shape[1:]), kind)
    header = {"version": _VERSION, "rows": rows, "shapes": {name: shapes[name] for name in sorted(shapes)}, **header}
    key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / key
    cache = FeatureCache(place, rows, shapes)
    if not (place / "cache.json").is_file():
        write_json(place / "cache.json", header)
    return cache


def describe_encoder(backbone: torch.nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the maps of an encoder depend on, with a hash of its weights."""
    weights = content_hash(backbone.state_dict())
    return {"weights": weights, "settings": {key: value for key, value in settings.items() if key != "weights"}}


def describe_data(dataset: BaseDataset) -> str:
    """A hash of the records of a dataset and of the sizes and dates of their files."""
    digest = hashlib.sha256()
    for row in range(len(dataset)):
        record = dataset.get_data_info(row)
        files = [value for value in record.values() if isinstance(value, str) and os.path.isfile(value)]
        stamps = [(os.path.getsize(path), os.stat(path).st_mtime_ns) for path in files]
        digest.update(json.dumps([record, stamps], sort_keys=True, default=str).encode())
    return digest.hexdigest()


class CachedViews(torch.utils.data.Dataset[Any]):
    """The training data as a cache holds them; a draw of a picture takes one of its views, chosen by its number.

    Args:
        cache: Complete.
        dataset: That it was made of.
        views: Of every picture.
        size: (H, W) of the pictures that the maps are of.
    """

    def __init__(self, cache: FeatureCache, dataset: BaseDataset, views: int, size: tuple[int, int]) -> None:
        self.cache = cache
        self.dataset = dataset
        self.views = views
        self.size = size

    def __len__(self) -> int:
        return len(self.dataset)

    def row_of(self, draw: int) -> int:
        """The row of a draw, a function of its picture, its number and the seed."""
        view = 0
        if self.views > 1:
            number, seed = (draw.number, draw.seed) if isinstance(draw, Draw) else (0, 0)
            view = int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) % self.views
        return view * len(self.dataset) + int(draw)

    def __getitems__(self, draws: Sequence[int]) -> dict[str, Any]:
        """A batch: `inputs` [B, 3, H, W] without content, `data_samples`, and `maps`, a tuple of [B, C, h, w]."""
        values = self.cache.read([self.row_of(draw) for draw in draws])

        def metainfo(place: int) -> dict[str, Any]:
            path = self.dataset.get_data_info(int(draws[place])).get("img_path")
            return {"img_path": path, "img_shape": self.size, "ori_shape": self.size, "batch_input_shape": self.size}

        samples = StackedSamples({field: values[field] for field in _FIELDS if field in values}, metainfo)
        maps = tuple(value for name, value in sorted(values.items()) if name.startswith("map-"))
        nothing = torch.zeros(1, 1, 1, 1).expand(len(draws), 3, *self.size)  # no picture, and no memory
        return {"inputs": nothing, "data_samples": samples, "maps": maps}
