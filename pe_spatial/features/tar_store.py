"""Features in tar files as WebDataset reads them: the members of a picture share the name before the first dot.

    OUT/features/features-000003.tar      the pictures of bundle 3: KEY.layer_5.npy for each layer, KEY.json the rule

A tar is there when all of its pictures are: a kill costs at most one for each process. A video has one of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from torch import Tensor

from pe_spatial.common.files import full_disk, is_full_disk, put_in_place, temporary_path
from pe_spatial.features.plan import Bundle
from pe_spatial.features.stores import FOLDER, Store, array_of, npy_of

Members = list[tuple[str, bytes]]


class TarStore(Store):
    """A tar for each bundle; members come into it in the order of its pictures, whichever thread has them first."""

    def __init__(self, output: Path, names: Sequence[str], description: Mapping[str, Any]) -> None:
        super().__init__(output, names, description)
        self._lock = threading.Lock()
        self._bundles: dict[str, Bundle] = {}
        self._places: dict[str, int] = {}
        self._open: dict[str, _OrderedTar] = {}

    def begin(self, bundles: Iterable[Bundle]) -> None:
        """See `Store`."""
        for bundle in bundles:
            for place, name in enumerate(bundle.names):
                self._bundles[name], self._places[name] = bundle, place

    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """See `Store`."""
        key = sample_key(stem)
        members = [(f"{key}.{layer}.npy", npy_of(array_of(values))) for layer, values in features.items()]
        members.append((f"{key}.json", json.dumps({**self.description, **facts}).encode()))
        bundle = self._bundles[name]
        with self._lock:
            self._tar_of(bundle).add(self._places[name] if frame is None else frame, members)
        return {"features": self._path(bundle), "key": key}

    def skip(self, name: str) -> None:
        """See `Store`."""
        with self._lock:
            self._tar_of(self._bundles[name]).add(self._places[name], [])

    def finish(self, bundle: Bundle) -> None:
        """See `Store`."""
        with self._lock:
            if tar := self._open.pop(bundle.name, None):
                tar.close()

    def finish_video(self, name: str, stem: str, times: Sequence[float | None]) -> None:
        """See `Store`."""
        self.finish(self._bundles[name])

    def discard_video(self, name: str, stem: str) -> None:
        """See `Store`."""
        with self._lock:
            if tar := self._open.pop(self._bundles[name].name, None):
                tar.discard()

    def close(self) -> None:
        """See `Store`."""
        for tar in self._open.values():
            tar.discard()
        self._open.clear()

    def _path(self, bundle: Bundle) -> str:
        return f"{FOLDER}/features-{bundle.name}.tar"

    def _tar_of(self, bundle: Bundle) -> _OrderedTar:
        if bundle.name not in self._open:
            self._open[bundle.name] = _OrderedTar(self.output / self._path(bundle))
        return self._open[bundle.name]


class _OrderedTar:
    """A tar that is being written; what comes early waits for its turn."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._temporary = temporary_path(path)
        self._waiting: dict[int, Members] = {}
        self._next = 0
        self._written = 0
        with self._naming():
            self._tar = tarfile.open(self._temporary, "w")  # noqa: SIM115 - it stays open

    def add(self, place: int, members: Members) -> None:
        self._waiting[place] = members
        while self._next in self._waiting:
            for name, content in self._waiting.pop(self._next):
                member = tarfile.TarInfo(name)  # without times and owners: equal features, equal files
                member.size = len(content)
                with self._naming():
                    self._tar.addfile(member, BytesIO(content))
                self._written += 1
            self._next += 1

    def close(self) -> None:
        """Put it in place, unless all of its pictures failed."""
        if not self._written:
            self.discard()
            return
        with self._naming():
            self._tar.close()
            put_in_place(self._temporary, self.path)

    def discard(self) -> None:
        with suppress(OSError):
            self._tar.fileobj.close()
        with suppress(OSError):
            self._temporary.unlink()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            if is_full_disk(error):
                raise full_disk(self.path) from error
            raise


def sample_key(stem: str) -> str:
    """The name before the first dot of the members of a picture, different for different stems."""
    folder, name = os.path.split(stem)
    if "." in name:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = f"{name.replace('.', '_')}-{digest}"
    return os.path.join(folder, name)
