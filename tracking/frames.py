"""Frames one after the other: from a folder, a list of files, a video file or a camera; and the masks of frames.

Nothing is read before it is asked for, and nothing is kept.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, few
from pe_spatial.common.pictures import read_image, read_indices
from pe_spatial.common.sources import resolve_sources
from pe_spatial.common.video import Camera, VideoFrame, VideoReader
from pe_spatial.data.images import find_images

VOID = 255


@dataclass(frozen=True)
class Frame:
    """A picture of a video.

    Args:
        number: its place in the source, from 0; frames that are skipped count.
        name: of its file without suffix, or its five-digit number.
        image: uint8 [3, H, W] RGB.
        time: seconds from the start at which it is shown; None where images have no times.
        duration: seconds for which it is shown, where the source says.
    """

    number: int
    name: str
    image: Tensor
    time: float | None = None
    duration: float | None = None


class ImageFrames:
    """Frames from image files.

    Args:
        source: a folder, a glob, a list file or a list of paths; see `pe_spatial.data.images.find_images`.
        skip_unreadable: leave out frames that are missing or damaged instead of stopping at them.

    Attributes:
        name: of the video.
        path: of the first frame.
        limit: number of frames that are wanted; None: all.
        rate: frames per second; 24.
        skipped: names of frames that could not be read and were left out.

    Raises:
        FileNotFoundError: there is no image.
        UnreadableFile: the numbering of the files has a gap (unless skipped), or two have one name.
    """

    rate = 24.0
    limit: int | None = None

    def __init__(self, source: str | Path | Sequence[str], skip_unreadable: bool = False) -> None:
        self.paths = [Path(path) for path in find_images(source)]
        if not self.paths:
            raise FileNotFoundError("a video of no frames: the list of paths is empty; name at least one image")
        self.path = self.paths[0]
        first = Path(os.path.abspath(self.path))  # results are named by it, and `..` is no name
        self.name = (first.parent.name or "frames") if len(self.paths) > 1 else first.stem
        self.skip_unreadable = skip_unreadable
        stem, times = Counter(path.stem for path in self.paths).most_common(1)[0]
        if times > 1:
            same = few(path for path in self.paths if path.stem == stem)
            raise UnreadableFile(f"{times} frames are called {stem} ({same}); give one folder with one file a frame")
        missing = missing_numbers([path.stem for path in self.paths])
        self.skipped: list[str] = list(missing)
        if missing and not skip_unreadable:
            raise UnreadableFile(
                f"{self.paths[0].parent}: frame {missing[0]} is missing ({len(missing)} in all): restore it, or skip "
                "missing frames (--skip-unreadable)"
            )

    @property
    def count(self) -> int:
        """Number of frames that are wanted."""
        return len(self.paths) if self.limit is None else min(self.limit, len(self.paths))

    def __iter__(self) -> Iterator[Frame]:
        """Read the frames in order.

        Raises:
            UnreadableFile: a file is missing or damaged (unless skipped).
        """
        for number, path in enumerate(self.paths):
            try:
                image = read_image(path)
            except UnreadableFile as error:
                if not self.skip_unreadable:
                    raise UnreadableFile(f"{error}; restore it, or skip such frames (--skip-unreadable)") from error
                self.skipped.append(path.stem)
                continue
            yield Frame(number, path.stem, image.as_subclass(torch.Tensor))


class VideoFrames:
    """Frames from a video file or a camera.

    Args:
        source: a file, or the number of a camera.
        skip_unreadable: leave out frames that cannot be decoded instead of stopping at them.

    Attributes:
        name: of the video.
        path: of the file.
        limit: number of frames that are wanted; None: all.
        rate: frames per second; 25 where a video does not say.
        skipped: names of frames that could not be read and were left out.

    Raises:
        UnreadableFile: the source cannot be opened or has no frame.
    """

    limit: int | None = None

    def __init__(self, source: str | Path | int, skip_unreadable: bool = False) -> None:
        self._video = Camera(source) if isinstance(source, int) else VideoReader(source)
        self.name = f"camera{source}" if isinstance(source, int) else Path(source).stem
        self.path = Path(str(source))
        self.rate = self._video.frame_rate
        self.skip_unreadable = skip_unreadable
        self.skipped: list[str] = []

    @property
    def count(self) -> int | None:
        """Number of frames that are wanted, as far as the file says; it may hold more."""
        known = [count for count in (self.limit, self._video.count) if count is not None]
        return min(known, default=None)

    def __iter__(self) -> Iterator[Frame]:
        """Decode the frames in order.

        Raises:
            UnreadableFile: a frame cannot be decoded, or the file ends early (unless skipped).
        """
        for frame in self._video.read() if isinstance(self._video, VideoReader) else self._video:
            if isinstance(frame, VideoFrame):
                yield Frame(frame.number, f"{frame.number:05d}", frame.image, frame.time, frame.duration)
            elif self.skip_unreadable:
                self.skipped += [f"{number:05d}" for number in range(frame.number, frame.number + frame.lost)]
            else:
                raise UnreadableFile(f"{frame}; or skip such frames (--skip-unreadable)") from frame


Frames = ImageFrames | VideoFrames


def open_frames(source: str | Path | int | Sequence[str], skip_unreadable: bool = False) -> Frames:
    """Return the frames of a video.

    Args:
        source: a folder, glob or list of images, a video file, or the number of a camera (also as text).
        skip_unreadable: leave out frames that cannot be read, and note them in `skipped`, instead of stopping.

    Raises:
        FileNotFoundError: nothing is there.
        UnreadableFile: it cannot be opened, has no frame, or lacks a frame (unless skipped).
    """
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal() and not Path(source).exists()):
        return VideoFrames(int(source), skip_unreadable)
    if isinstance(source, str | Path) and Path(source).is_file():
        entries = resolve_sources(source)
        if len(entries) == 1 and entries[0].kind == "video":
            return VideoFrames(entries[0].path, skip_unreadable)
    return ImageFrames(source, skip_unreadable)


def missing_numbers(names: Sequence[str]) -> list[str]:
    """Return the gaps in a numbering: the names between the first and the last that most steps say should be there.

    Numbers may go in steps (YouTube-VOS: 5). Names that are not all numbers have no gaps.
    """
    if len(names) < 3 or not all(name.isdecimal() for name in names):
        return []
    numbers = [int(name) for name in names]
    step = Counter(b - a for a, b in zip(numbers, numbers[1:], strict=False)).most_common(1)[0][0]
    if step < 1:
        return []
    return [f"{n:0{len(names[0])}d}" for n in range(numbers[0], numbers[-1], step) if n not in set(numbers)]


def read_mask(path: str | Path | Image.Image, only: Collection[int] | None = None, binary: bool = False) -> Tensor:
    """Read a mask file, a PNG of object numbers (grayscale or palette), as int64 [H, W].

    Args:
        path: the file, or the image in memory.
        only: numbers to keep; the others become 0. None keeps all but 255, which stands for "unknown".
        binary: everything above 0 is the one object 1 (DAVIS 2016: 0 and 255). A file whose only values are 0 and 255
            is read so in any case.

    Raises:
        UnreadableFile: the file is missing or damaged.
        IndexModeError: the file holds colors.
    """
    values = torch.from_numpy(read_indices(path))
    if binary or set(values.unique().tolist()) <= {0, VOID}:
        return (values > 0).long()
    if only is not None:
        return values * torch.isin(values, torch.tensor(sorted(only), dtype=torch.int64))
    return values * (values != VOID)
