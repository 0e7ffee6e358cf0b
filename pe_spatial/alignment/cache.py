"""Maps of a mask teacher on disk, computed once for a list of images, so that training never runs the teacher.

    CACHE/cache.json                what the maps are of: the teacher with a hash of its weights, the grid, the coding,
                                    and a hash of the list of images
    CACHE/images.jsonl              that list: [name, bytes] of image 0, 1, …
    CACHE/maps-000000.safetensors   the maps of the first `shard_images` images, and so on

A shard holds the records of `MapCodec` (`codes`, `scales`, `lengths`), `checksums` int64 [n], `errors` float32 [n, 2]
(what coding adds, see `added_error`; NaN marks an image that could not be read), and in its metadata the fingerprint of
the cache and its own number.

Every file is complete or absent, and a shard that is there is never computed again.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pe_spatial.alignment.map_codec import MapCodec, Record, added_error
from pe_spatial.common.errors import OptionError, UnreadableFile, UserError, require_positive
from pe_spatial.common.files import write_atomically, write_json, write_text
from pe_spatial.common.reading import read_json, read_text
from pe_spatial.common.trees import differences

_VERSION = 1
_HEADER = "cache.json"
_IMAGES = "images.jsonl"
_FIELDS_OF_HEADER: dict[str, type] = {
    "version": int,
    "teacher": dict,
    "grid": list,
    "codec": dict,
    "num_images": int,
    "images_sha256": str,
    "shard_images": int,
}
_FIELDS = ("codes", "scales", "lengths")

Identity = tuple[str, int]  # name and bytes of an image; see `ImageFolder.identities`


class CacheError(UserError, ValueError):
    """A cache of something else, or a damaged one; the message names the file and says what to do."""


class TeacherCache:
    """A cache that exists; see `create_cache`.

    Args:
        folder: Of the cache.

    Attributes:
        header: What the maps are of.
        grid: (h, w) of the maps.
        num_images: Of the whole cache, computed or not.
        num_shards: Of the whole cache, computed or not.

    Raises:
        CacheError: It is none, or one of a later version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / _HEADER
        try:
            self.header: dict[str, Any] = read_json(path, {"version": int})
            if self.header["version"] == _VERSION:
                read_json(path, _FIELDS_OF_HEADER)
        except OSError as error:
            raise CacheError(
                f"{self.folder} is not a teacher cache ({path.name}: {error}); make one with tools/cache_teacher.py"
            ) from error
        version = self.header["version"]
        if version != _VERSION:
            raise CacheError(f"{path}: version {version} of the format is not {_VERSION}; compute the cache again")
        grid, rank = self.header["grid"], self.header["codec"].get("rank", 0)  # null keeps all
        sides = [side for side in grid if type(side) is int and side > 0]
        numbers = self.header["num_images"], self.header["shard_images"], 1 if rank is None else rank
        if len(grid) != 2 or len(sides) != 2 or not all(type(number) is int and number > 0 for number in numbers):
            raise CacheError(f"{path} is damaged: its grid, its rank or its counts are not numbers above 0")
        self.fingerprint = _sha256(json.dumps(self.header, sort_keys=True).encode())
        self.grid: tuple[int, int] = tuple(self.header["grid"])
        self.num_images: int = self.header["num_images"]
        self.shard_images: int = self.header["shard_images"]
        self.num_shards = -(-self.num_images // self.shard_images)
        self.codec = MapCodec(self.header["codec"]["rank"])

    # --- what it belongs to -------------------------------------------------------------------------------------------
    def check_images(self, identities: Sequence[Identity]) -> None:
        """Make sure that row k is the map of image k of a list.

        Raises:
            CacheError: It is the cache of another list; names the first image that differs.
        """
        if _sha256(_image_lines(identities)) == self.header["images_sha256"]:
            return
        try:
            entries = map(json.loads, read_text(self.folder / _IMAGES).splitlines())
            cached = [(str(name), int(size)) for name, size in entries]
        except (OSError, ValueError, TypeError) as error:
            raise CacheError(
                f"{self.folder} was made from another list of images, and {_IMAGES} cannot say which ({error}); give "
                "that list, or make a cache of this one with tools/cache_teacher.py"
            ) from error
        pairs = enumerate(zip(cached, identities, strict=False))
        number, found = next(((n, pair) for n, pair in pairs if pair[0] != tuple(pair[1])), (None, None))
        if found is None:
            difference = f"the cache has {len(cached)} images, the list {len(identities)}"
        else:
            (name, size), (other, other_size) = found
            difference = f"image {number} is {name} ({size} bytes) in the cache and {other} ({other_size} bytes) here"
        raise CacheError(
            f"{self.folder} was made from another list of images: {difference}; give that list, or make a cache of "
            "this one with tools/cache_teacher.py"
        )

    # --- reading ------------------------------------------------------------------------------------------------------
    def read(self, row: int) -> Tensor:
        """The map float32 [R, h, w] of image `row`; its checksum is verified.

        Raises:
            CacheError: Not computed yet, or damaged; names the shard.
            UnreadableFile: The image itself could not be read when the cache was made.
            IndexError: There is no such image.
        """
        if not 0 <= row < self.num_images:
            raise IndexError(f"image {row} is not among the {self.num_images} of {self.folder}")
        number, place = divmod(row, self.shard_images)
        with self._open(number) as shard:
            if shard.get_slice("errors")[place].isnan().any():
                raise UnreadableFile(f"image {row} of {self.folder} could not be read when the cache was made")
            return self.codec.decode(self._checked(number, shard, place))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not computed yet."""
        return [number for number in range(self.num_shards) if not self.path(number).is_file()]

    def damaged(self, thorough: bool = False) -> dict[int, str]:
        """Shards that are there but unusable, with what is wrong.

        Args:
            thorough: Compare every checksum; otherwise only sizes and headers are looked at.
        """
        found = {}
        for number in sorted({*range(self.num_shards)} - {*self.missing()}):
            try:
                with self._open(number) as shard:
                    for place in range(len(self.rows(number))) if thorough else ():
                        self._checked(number, shard, place)
            except CacheError as error:
                found[number] = str(error)
        return found

    def check_complete(self) -> None:
        """Raise CacheError if a shard is missing, truncated or of another cache; values are verified when read."""
        missing, damaged = self.missing(), self.damaged()
        if missing:
            raise CacheError(
                f"{self.folder} is not complete: {len(missing)} of {self.num_shards} shards are missing, the first is "
                f"{self.path(missing[0]).name}; run the same command again to complete it"
            )
        if damaged:
            raise CacheError(next(iter(damaged.values())))

    def errors(self) -> Tensor:
        """What coding adds (mean, largest; see `added_error`) for every image so far that could be read: [n, 2]."""
        parts = []
        for number in sorted({*range(self.num_shards)} - {*self.missing()}):
            with self._open(number) as shard:
                parts.append(shard.get_tensor("errors"))
        errors = torch.cat(parts) if parts else torch.zeros(0, 2)
        return errors[~errors.isnan().any(1)]

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"maps-{number:06d}.safetensors"

    def rows(self, number: int) -> range:
        """The images of a shard."""
        start = number * self.shard_images
        return range(start, min(start + self.shard_images, self.num_images))

    def _open(self, number: int) -> Any:
        path = self.path(number)
        if not path.is_file():
            raise CacheError(f"{path} is missing: the cache is not complete; run the same command again to complete it")
        try:
            shard = safe_open(path, framework="pt")
            fingerprint, _, place = (shard.metadata() or {}).get("shard", "").partition(" ")
            counts = {tuple(shard.get_slice(name).get_shape())[:1] for name in (*_FIELDS, "checksums", "errors")}
        except SafetensorError as error:  # the lengths in its header must add up to the size of the file
            raise CacheError(self._damaged(number, f"truncated or overwritten: {error}")) from error
        if fingerprint != self.fingerprint:
            raise CacheError(self._damaged(number, "it belongs to another cache: other images, teacher or settings"))
        if place != str(number) or counts != {(len(self.rows(number)),)}:
            raise CacheError(self._damaged(number, "it is another shard under this name"))
        return shard

    def _checked(self, number: int, shard: Any, place: int) -> Record:
        row = self.rows(number)[place]
        try:
            record = {name: shard.get_slice(name)[place] for name in _FIELDS}
            is_sound = _checksum(record) == int(shard.get_slice("checksums")[place])
        except (SafetensorError, RuntimeError, ValueError, TypeError, IndexError) as error:  # of damaged headers
            raise CacheError(self._damaged(number, f"image {row} cannot be read: {error}")) from error
        if not is_sound:
            raise CacheError(self._damaged(number, f"the checksum of image {row} is wrong"))
        return record

    def _damaged(self, number: int, reason: str) -> str:
        return f"{self.path(number)} is damaged ({reason}); tools/cache_teacher.py --repair computes it again"

    # --- writing ------------------------------------------------------------------------------------------------------
    def fill(self, number: int, maps: Callable[[int], Tensor | None]) -> Iterator[int]:
        """Compute and write one shard; yields each row when its map is there, and writes after the last.

        Args:
            number: Of the shard.
            maps: From a row to its map [K, h, w], or None for an image that cannot be read.

        Raises:
            OptionError: A map on another grid.
        """
        records = []
        for row in self.rows(number):
            features = maps(row)
            if features is not None and features.shape[1:] != self.grid:
                raise OptionError(f"the map of image {row} is {list(features.shape[1:])}, the cache is of {self.grid}")
            records.append(None if features is None else self._record(features))
            yield row
        readable = [record for record in records if record is not None]
        if not readable:
            raise UnreadableFile(f"none of the images {self.rows(number)} of shard {number} can be read")
        blank = {name: torch.zeros_like(item) for name, item in readable[0].items()} | {
            "errors": torch.full((2,), torch.nan)
        }
        tensors = {name: torch.stack([(record or blank)[name] for record in records]) for name in blank}
        content = save(tensors, {"shard": f"{self.fingerprint} {number}"})  # a second key would come in any order
        write_atomically(self.path(number), lambda file: file.write(content))

    def _record(self, features: Tensor) -> Record:
        record = self.codec.encode(features)
        errors = torch.tensor(added_error(features, self.codec.decode(record)))
        return {**record, "checksums": torch.tensor(_checksum(record)), "errors": errors}


def create_cache(
    folder: str | Path,
    teacher: dict[str, Any],
    grid: tuple[int, int],
    identities: Sequence[Identity],
    codec: MapCodec,
    shard_images: int = 64,
) -> TeacherCache:
    """Begin a cache, or go on with the one in the folder.

    Args:
        folder: New, or of the same cache.
        teacher: What its maps depend on.
        grid: (h, w) of the maps.
        identities: Of the images.
        codec: How maps are stored.
        shard_images: Images per shard: a kill costs at most one shard.

    Raises:
        CacheError: The folder holds a cache of something else; says what differs.
    """
    require_positive(shard_images=shard_images)
    lines = _image_lines(identities)
    header = {
        "version": _VERSION,
        "teacher": teacher,
        "grid": list(grid),
        "codec": codec.describe(),
        "num_images": len(identities),
        "images_sha256": _sha256(lines),
        "shard_images": shard_images,
    }
    path = Path(folder)
    if (path / _HEADER).is_file():
        existing = TeacherCache(path)
        if existing.header["images_sha256"] != header["images_sha256"]:
            existing.check_images(identities)
        different = "; ".join(differences(existing.header, header))
        if different:
            raise CacheError(
                f"{path} has a cache with other settings (in the cache → in this run: {different}); use the same "
                "settings, or give another folder"
            )
        return existing
    path.mkdir(parents=True, exist_ok=True)
    write_text(path / _IMAGES, lines.decode())
    write_json(path / _HEADER, header)
    return TeacherCache(path)


def _image_lines(identities: Sequence[Identity]) -> bytes:
    # JSON escapes the names, which need not be valid text
    return "".join(json.dumps([name, size]) + "\n" for name, size in identities).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checksum(record: Record) -> int:
    checksum = 0
    for name in _FIELDS:
        checksum = zlib.crc32(record[name].numpy().data, checksum)
    return checksum
