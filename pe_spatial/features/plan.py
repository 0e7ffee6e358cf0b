"""Which pictures go through the encoder together: those of one size, in batches that depend on the input alone.

The last digits of a feature depend on the pictures that it was computed with. So the batches are made of all files
of the input, whatever is finished already, and what is recorded is always a whole bundle of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pe_spatial.common.errors import MissingPackage, UnreadableFile
from pe_spatial.common.pictures import image_size
from pe_spatial.common.sources import Entry
from pe_spatial.features.sizing import Sizing

Size = tuple[int, int]

_READERS = 8  # threads; a head takes a network disk longer than a processor


@dataclass(frozen=True)
class Bundle:
    """Pictures that are recorded as finished together, or one video.

    Attributes:
        name: Different from that of every other bundle of the input.
        batches: Names of the pictures that go through the encoder together.
        is_video: Whether it is a video, whose frames are no names of their own.
    """

    name: str
    batches: tuple[tuple[str, ...], ...]
    is_video: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all of its pictures, in their order."""
        return tuple(name for batch in self.batches for name in batch)


def targets_of(
    files: Mapping[str, Entry], sizing: Sizing, advance: Callable[[], object] = lambda: None
) -> dict[str, Size | None]:
    """The size (H, W) that every picture is resized to, from the heads of the files; None where one cannot be read.

    Args:
        files: Pictures by their names; videos are left out of the result.
        sizing: The rule.
        advance: Called for every picture.
    """

    def target(entry: Entry) -> Size | None:
        try:
            return sizing.target(image_size(entry.path, entry.archive))
        except (UnreadableFile, MissingPackage, ZeroDivisionError):  # named when it is read
            return None
        finally:
            advance()

    pictures = {name: entry for name, entry in files.items() if entry.kind == "image"}
    if sizing.resize == "square":
        return dict.fromkeys(pictures, sizing.target((1, 1)))
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(pictures, pool.map(target, pictures.values()), strict=True))


def bundles_of(files: Mapping[str, Entry], targets: Mapping[str, Size | None], batch: int, size: int) -> list[Bundle]:
    """All files in bundles: pictures sorted by their aspect ratio, then the videos.

    Args:
        files: By their names.
        targets: Of `targets_of`.
        batch: Most pictures in a batch.
        size: A bundle ends with the batch that fills it up to this number of pictures.
    """
    by_size: dict[Size, list[str]] = defaultdict(list)
    for name, target in targets.items():
        by_size[target or (0, 0)].append(name)
    order = sorted(by_size, key=lambda one: (one[1] / max(one[0], 1), one))
    batches = [names[i : i + batch] for one in order for names in [by_size[one]] for i in range(0, len(names), batch)]
    groups = [(group, False) for group in _filled(batches, size)]
    groups += [([[name]], True) for name, entry in files.items() if entry.kind == "video"]
    return [
        Bundle(f"{number:06d}", tuple(map(tuple, group)), is_video) for number, (group, is_video) in enumerate(groups)
    ]


def _filled(batches: Sequence[list[str]], size: int) -> Iterator[list[list[str]]]:
    group: list[list[str]] = []
    for batch in batches:
        group.append(batch)
        if sum(map(len, group)) >= size:
            yield group
            group = []
    if group:
        yield group
