"""Frames one after the other: from a folder, a list of files, a video file or a camera; and the masks of frames.

Nothing is read before it is asked for, and nothing is kept.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, few
from pe_spatial.common.pictures import read_image
from pe_spatial.common.sources import resolve_sources
from pe_spatial.common.video import Camera, UnreadableFrame, VideoFrame, VideoReader, count_frames
from pe_spatial.data.images import find_images
from pe_spatial.tracking.masks import VOID, read_mask

_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
_LONGEST = 1_000_000  # numbers of a series; larger ones count something else, such as time
_MASK_VALUES = 32  # that a picture of object numbers has at most
_SERIES = 4  # of names that are looked into


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
        UnreadableFile: the numbering of the files has a gap (unless skipped), two have one name, or there are masks
            among them.
    """

    rate = 24.0
    limit: int | None = None

    def __init__(self, source: str | Path | Sequence[str], skip_unreadable: bool = False) -> None:
        self.paths = [Path(path) for path in find_images(source)]
        if not self.paths:
            raise FileNotFoundError("the list of frames is empty; give at least one image")
        self.path = self.paths[0]
        first = Path(os.path.abspath(self.path))  # results are named by it, and `..` is no name
        self.name = (first.parent.name or "frames") if len(self.paths) > 1 else first.stem
        self.skip_unreadable = skip_unreadable
        _require_frames(self.paths)
        stem, times = Counter(path.stem for path in self.paths).most_common(1)[0]
        if times > 1:
            same = few(path for path in self.paths if path.stem == stem)
            raise UnreadableFile(f"{times} frames have the name {stem} ({same}); give a folder with one file per frame")
        missing = missing_numbers([path.stem for path in self.paths])
        self.skipped: list[str] = list(missing)
        if missing and not skip_unreadable:
            raise UnreadableFile(
                f"{self.paths[0].parent}: frame {missing[0]} is missing ({len(missing)} in total): restore it, or skip "
                "missing frames (--skip-unreadable)"
            )

    @property
    def count(self) -> int:
        """Number of frames that are wanted."""
        return len(self.paths) if self.limit is None else min(self.limit, len(self.paths))

    def count_all(self) -> int:
        """`count`."""
        return self.count

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

    def count_all(self) -> int | None:
        """`count`, exact also where the file does not say; None of a camera without a limit.

        Raises:
            UnreadableFile: The file is gone.
        """
        if not isinstance(self._video, VideoReader):
            return self.limit
        exact = count_frames(self.path) if self._video.count is None else self._video.count
        return exact if self.limit is None else min(self.limit, exact)

    def __iter__(self) -> Iterator[Frame]:
        """Decode the frames in order.

        Raises:
            UnreadableFile: a frame cannot be decoded, or the file ends early (unless skipped).
        """
        items: Iterable[VideoFrame | UnreadableFrame] = self._video
        if isinstance(self._video, VideoReader):
            items = self._video.read() if self.skip_unreadable else self._video.whole()
        try:
            for item in items:
                if isinstance(item, VideoFrame):
                    yield Frame(item.number, f"{item.number:05d}", item.image, item.time, item.duration)
                else:
                    self.skipped += [f"{number:05d}" for number in range(item.number, item.number + item.lost)]
        except UnreadableFrame as error:
            raise UnreadableFile(f"{error}; or skip such frames (--skip-unreadable)") from error


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

    Numbers may go in steps (YouTube-VOS: 5). They are the last ones in the names (`frame_00012`, `00012_left`); names
    that differ in something else, or whose steps mostly differ, have no gaps.
    """
    parts = [match.groups() for match in map(_LAST_NUMBER.fullmatch, names) if match]
    if len(names) < 3 or len(parts) < len(names) or len({(before, after) for before, _, after in parts}) > 1:
        return []
    before, digits, after = parts[0]
    numbers = [int(number) for _, number, _ in parts]
    step, times = Counter(b - a for a, b in pairwise(numbers)).most_common(1)[0]
    if step < 1 or 2 * times <= len(numbers) - 1 or (numbers[-1] - numbers[0]) // step > _LONGEST:
        return []
    there = set(numbers)
    gaps = (number for number in range(numbers[0], numbers[-1], step) if number not in there)
    return [f"{before}{number:0{len(digits)}d}{after}" for number in gaps]


def _require_frames(paths: Sequence[Path]) -> None:
    """Refuse masks beside the frames, of which the names tell; warn of several series of names.

    Raises:
        UnreadableFile: There are both.
    """
    series: dict[tuple[str, str, str], list[Path]] = {}
    for path in paths:
        series.setdefault((str(path.parent), re.sub(r"\d+", "#", path.stem), path.suffix.lower()), []).append(path)
    several = [files for files in series.values() if len(files) > 1 or len(series) == 2]
    if len(several) < 2:
        return
    masks = [files for files in several[:_SERIES] if _may_be_masks([files[0], files[len(files) // 2], files[-1]])]
    if masks and len(masks) < len(several[:_SERIES]):
        frame = next(files[0] for files in several if files not in masks)
        pattern = frame.with_name(re.sub(r"\d+", "*", frame.stem) + frame.suffix)
        raise UnreadableFile(
            f"{masks[0][0]} looks like a mask of object numbers, but it is among frames such as {frame.name}; give "
            f"only the frames, for example --input '{pattern}'"
        )
    if len({len(files) for files in several}) == 1 and len(several[0]) > 1:
        shown = few(f"{files[0].name} and so on" for files in several)
        warnings.warn(
            f"frames of {len(several)} series ({shown}) are taken for one video, one after the other", stacklevel=4
        )


def _may_be_masks(paths: Sequence[Path]) -> bool:
    """Whether pictures hold few values, none of them a color of its own, and are not all of one, as black ones are."""
    try:
        values = [len(read_mask(path, only=range(VOID + 1), binary=False).unique()) for path in paths]
    except UnreadableFile:
        return False
    return 1 < max(values) <= _MASK_VALUES
