"""Frames one after the other: from a folder, a list of files, a video file or a camera; and the masks of frames.

Nothing is read before it is asked for, and nothing is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import torch
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.pictures import IMAGE_SUFFIXES, read_image, read_indices
from pe_spatial.data.images import find_images

VOID = 255
# containers announce lengths that are a little too large; more than this many missing frames is damage
_TOLERATED_TAIL = 2


@dataclass(frozen=True)
class Frame:
    """A picture of a video.

    Args:
        number: its place in the source, from 0; frames that are skipped count.
        name: of its file without suffix, or its five-digit number.
        image: uint8 [3, H, W] RGB.
    """

    number: int
    name: str
    image: Tensor


class Frames(Protocol):
    """What `open_frames` returns.

    Attributes:
        name: of the video.
        count: number of frames, or None where it is not known beforehand.
        rate: frames per second; 24 where the source does not say.
        skipped: names of frames that could not be read and were left out.
    """

    name: str
    count: int | None
    rate: float
    skipped: list[str]

    def __iter__(self) -> Iterator[Frame]: ...


class ImageFrames:
    """Frames from image files.

    Args:
        source: a folder, a glob, a list file or a list of paths; see `pe_spatial.data.images.find_images`.
        skip_unreadable: leave out frames that are missing or damaged instead of stopping at them.

    Raises:
        FileNotFoundError: there is no image.
        UnreadableFile: the numbering of the files has a gap (unless skipped).
    """

    rate = 24.0

    def __init__(self, source: str | Path | Sequence[str], skip_unreadable: bool = False) -> None:
        self.paths = [Path(path) for path in find_images(source)]
        if not self.paths:
            raise FileNotFoundError("a video of no frames: the list of paths is empty; name at least one image")
        self.name = self.paths[0].parent.name if len(self.paths) > 1 else self.paths[0].stem
        self.count: int | None = len(self.paths)
        self.skip_unreadable = skip_unreadable
        missing = missing_numbers([path.stem for path in self.paths])
        self.skipped: list[str] = list(missing)
        if missing and not skip_unreadable:
            raise UnreadableFile(
                f"{self.paths[0].parent}: frame {missing[0]} is missing ({len(missing)} in all): restore it, or skip "
                "missing frames (--skip-unreadable)"
            )

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
    """Frames from a video file or a camera, decoded with OpenCV.

    Args:
        source: a file, or the number of a camera.
        skip_unreadable: leave out frames that cannot be decoded instead of stopping at them.

    Raises:
        UnreadableFile: the source cannot be opened or has no frame.
    """

    def __init__(self, source: str | Path | int, skip_unreadable: bool = False) -> None:
        self.source = source
        self.name = f"camera{source}" if isinstance(source, int) else Path(source).stem
        self.skip_unreadable = skip_unreadable
        self.skipped: list[str] = []
        capture = self._open()
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = announced if announced > 0 and not isinstance(source, int) else None
        rate = capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else 24.0
        if not isinstance(source, int) and not capture.grab():
            raise UnreadableFile(f"{source} holds no frame that can be decoded; check that it is a video")
        capture.release()

    def __iter__(self) -> Iterator[Frame]:
        """Decode the frames in order.

        Raises:
            UnreadableFile: a frame before the announced end cannot be decoded (unless skipped).
        """
        capture, number, failures = self._open(), 0, 0
        try:
            while self.count is None or number < self.count:
                success, picture = capture.read()
                if not success:
                    if self.count is None or number >= self.count - _TOLERATED_TAIL:
                        break
                    self._refuse(number)
                    failures += 1
                    if failures > _TOLERATED_TAIL:  # nothing more comes
                        break
                else:
                    failures = 0
                    image = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)  # OpenCV has BGR
                    yield Frame(number, f"{number:05d}", image)
                number += 1
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.source if isinstance(self.source, int) else str(self.source))
        if not capture.isOpened():
            kind = "camera" if isinstance(self.source, int) else "video"
            raise UnreadableFile(f"{kind} {self.source} cannot be opened; check the {kind}, or convert it to frames")
        return capture

    def _refuse(self, number: int) -> None:
        self.skipped.append(f"{number:05d}")
        if not self.skip_unreadable:
            raise UnreadableFile(
                f"{self.source}: frame {number} of {self.count} cannot be decoded; the file is damaged or cut short: "
                "repair it, or skip such frames (--skip-unreadable)"
            )


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
    if isinstance(source, str | Path) and _is_video(Path(source)):
        return VideoFrames(source, skip_unreadable)
    return ImageFrames(source, skip_unreadable)


def _is_video(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in (*IMAGE_SUFFIXES, ".txt")


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


def read_mask(path: str | Path, only: Collection[int] | None = None, binary: bool = False) -> Tensor:
    """Read a mask file, a PNG of object numbers (grayscale or palette), as int64 [H, W].

    Args:
        path: the file.
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
