"""Features of a run into a folder: the writer of `pe-spatial features`, and what of its work is left."""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.common.files import write_json_stream
from pe_spatial.common.records import Records
from pe_spatial.common.sources import Entry
from pe_spatial.features.extractor import FeatureExtractor
from pe_spatial.features.plan import Bundle, Size
from pe_spatial.features.stores import NpyStore, SafetensorsStore, Store, require_numpy_type
from pe_spatial.features.tar_store import TarStore
from pe_spatial.features.zarr_store import ZarrStore, require_zarr
from pe_spatial.inference.stream import Prediction, Streamed
from pe_spatial.inference.writer import ResultsWriter

LIST = "features.json"
FORMATS = ("safetensors", "npy", "zarr", "tar")
LIST_VERSION = 1
_OF_ONE_LIST = ("zarr", "tar")  # where a picture lies depends on all others


class Extracting(Streamed, Protocol):
    """What makes the features that a `FeatureWriter` writes: a `FeatureExtractor`, or another with these attributes."""

    names: tuple[str, ...]
    description: dict[str, Any]


class FeatureWriter(ResultsWriter):
    """Writes features; pictures of a bundle count when all of it is written.

        OUT/features/…, OUT/features.zarr      see the stores
        OUT/features.json                      the rule, and an entry for every picture and every frame

    Args:
        records: Of the output folder.
        stems: Names of the files to write, without suffix, by names of the input.
        options: Of the command.
        store: Of the format.
        extractor: Whose features they are.
    """

    result = LIST

    def __init__(
        self, records: Records, stems: Mapping[str, str], options: Namespace, store: Store, extractor: Extracting
    ) -> None:
        self.places = store.places
        super().__init__(records, stems, None, options, store.kinds)
        self.store = store
        self.extractor = extractor
        self._bundles: dict[str, Bundle] = {}
        self._finished: dict[str, dict[str, Any]] = {}  # by bundle and name; None for a picture that failed
        self._times: dict[str, dict[int, float | None]] = {}

    # --- what is missing ----------------------------------------------------------------------------------------------
    def begin(self, bundles: Sequence[Bundle], files: Mapping[str, Entry]) -> list[Bundle]:
        """What is left to do of some bundles."""
        wanted = {name: files[name].file for bundle in bundles for name in bundle.names}
        missing = set(self.plan(wanted))
        left = [bundle for bundle in bundles if missing.intersection(bundle.names)]
        if isinstance(self.store, TarStore):
            failed = {unit.name for unit in self.records.units() if unit.problem is not None}
            left = [_whole_or_repaired(bundle, missing, failed) for bundle in left]
            renewed = [name for bundle in left for name in bundle.names if name not in missing]
            if renewed:
                self.records.forget(renewed)
                self.plan(wanted)
        else:
            left = [_only(bundle, missing) for bundle in left]
        self._bundles = {name: bundle for bundle in left for name in bundle.names}
        self.store.begin(left)
        return left

    # --- writing ------------------------------------------------------------------------------------------------------
    def describe(self, stem: str, image: Tensor, sample: BaseDataElement, frame: int | None) -> dict[str, Any]:
        """Write the features of a picture; see `ResultsWriter`."""
        facts = {key: sample.get(key) for key in ("source_size", "size", "grid", "time", "duration") if key in sample}
        name = sample.get("name")
        features = {layer: sample.get(layer) for layer in self.extractor.names}
        if frame is not None:
            with self._lock:
                self._times.setdefault(name, {})[frame] = facts.get("time")
        named = {"file_name": name, **({} if frame is None else {"frame": frame}), **facts}
        return {**facts, **self.store.put(name, stem, features, named, frame)}

    def draw(self, image: Tensor, sample: BaseDataElement, frame: int | None) -> Tensor:
        """Features are drawn by `pe-spatial visualize`."""
        raise NotImplementedError

    def record(self, name: str, frame: int | None, content: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        """Note a picture; it counts with the last one of its bundle."""
        if frame is not None:
            super().record(name, frame, content, files)
        else:
            self._settle(name, (name, content, self._stamps.get(name), files))

    def fail(self, name: str, problem: str) -> None:
        """Note why a picture, or a video, failed."""
        super().fail(name, problem)
        if not self._bundles[name].is_video:
            self.store.skip(name)
            self._settle(name, None)

    def _settle(self, name: str, unit: Any) -> None:  # noqa: ANN401 - a unit of the records, or None
        bundle = self._bundles[name]
        with self._lock:
            settled = self._finished.setdefault(bundle.name, {})
            settled[name] = unit
            if len(settled) < len(bundle.names):
                return
            del self._finished[bundle.name]
        self.store.finish(bundle)
        self.records.add_together(settled[name] for name in bundle.names if settled[name] is not None)

    def finish_video(self, name: str, frames: int) -> None:
        """Note that all frames of a video were written."""
        times = self._times.pop(name, {})
        self.store.finish_video(name, self.stems[name], [times.get(frame) for frame in range(frames)])
        super().finish_video(name, frames)

    def remove_video(self, name: str) -> None:
        """Forget a video that failed, and remove what was written of its frames."""
        super().remove_video(name)
        self._times.pop(name, None)
        self.store.discard_video(name, self.stems[name])

    def write_lists(self) -> None:
        """Write the list of all features."""
        head = {"format_version": LIST_VERSION, "format": self.records.run["format"]}
        head |= {"layers": list(self.extractor.names), "rule": self.extractor.description}
        write_json_stream(self.folder / LIST, {**head, "features": self.records.contents()})

    def close(self) -> Any:  # noqa: ANN401 - as of the base
        """Write the list; what is not finished is left out."""
        self.store.close()
        return super().close()


def _only(bundle: Bundle, names: set[str]) -> Bundle:
    """A bundle without the pictures that are not among some names."""
    batches = (tuple(name for name in batch if name in names) for batch in bundle.batches)
    return Bundle(bundle.name, tuple(batch for batch in batches if batch), bundle.is_video)


def _whole_or_repaired(bundle: Bundle, missing: set[str], failed: set[str]) -> Bundle:
    """The bundle, for a tar is written whole; where it is there, only those of its pictures that had failed."""
    names = [name for name in bundle.names if name in missing]
    if len(names) == len(bundle.names) or not failed.issuperset(names):
        return bundle
    digest = hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()[:8]
    return Bundle(f"{bundle.name}-{digest}", _only(bundle, missing).batches, bundle.is_video)


# --- the folder -------------------------------------------------------------------------------------------------------
def check_format(kind: str, extractor: FeatureExtractor) -> None:
    """Refuse a format that cannot hold the features, or whose package is missing.

    Raises:
        OptionError: bf16, or several layers of different shapes in one array.
        MissingPackage: zarr is not installed.
    """
    if kind == "zarr":
        require_zarr()
    if kind != "safetensors":
        require_numpy_type(kind, extractor.dtype)
    encoder = extractor.encoder
    strides = encoder.strides if extractor.pool == "none" else ()
    if kind == "npy" and max(len({*strides}), len({*encoder.channels})) > 1:
        raise OptionError(
            f"layers of {encoder.channels} channels and strides {encoder.strides} do not fit into one array; use "
            "format safetensors, tar or zarr"
        )


def identity_of(kind: str, extractor: FeatureExtractor, files: Iterable[str], tar_pictures: int) -> dict[str, Any]:
    """What must be equal for two runs to share a folder."""
    description = dict(extractor.description)
    settings = {f"encoder.{key}": value for key, value in description.pop("settings").items()}
    run = {"task": "features", **description, **settings, "format": kind, "batch_size": extractor.batch_size}
    if kind in _OF_ONE_LIST:
        names = list(files)
        digest = hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()[:16]
        run["input"] = f"{len(names)} files ({digest})"
    return run | ({"tar_pictures": tar_pictures} if kind == "tar" else {})


def open_writer(
    records: Records,
    options: Namespace,
    extractor: FeatureExtractor,
    stems: Mapping[str, str],
    targets: Mapping[str, Size | None],
) -> FeatureWriter:
    """The writer of a run; it claims the folder.

    Args:
        records: Of the output folder, for the run of `identity_of`.
        options: Of the command.
        extractor: Whose features are written.
        stems: Names of the files to write, without suffix, by names of all files of the input.
        targets: The sizes of all pictures of the input, videos left out.
    """
    kind, common = records.run["format"], (records.folder, extractor.names, extractor.description)
    store: Store
    if kind == "zarr":
        is_one_size = len(targets) == len(stems) and len({*targets.values()} - {None}) == 1
        store = ZarrStore(*common, list(stems) if is_one_size else None, records.list_lock())
    else:
        stores: dict[str, type[Store]] = {"safetensors": SafetensorsStore, "npy": NpyStore, "tar": TarStore}
        store = stores[kind](*common)
    return FeatureWriter(records, stems, options, store, extractor)


def named(predictions: Iterable[Prediction], names: Mapping[Any, str]) -> Iterator[Prediction]:
    """Predictions whose samples know the name of their file and, of a video, the time of their frame."""
    for prediction in predictions:
        sample, source = prediction.sample, prediction.source
        if sample is not None:
            times = {} if source.frame is None else {"time": source.time, "duration": source.duration}
            sample.set_metainfo({"name": names[source.path], **times})
        yield prediction
