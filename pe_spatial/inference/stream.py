"""Prediction over many files: pictures are read and prepared in background threads while the model works."""

import glob
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.pictures import IMAGE_SUFFIXES, image_size
from pe_spatial.inference.predictor import Picture, Predictor

Prepared = tuple[Tensor, dict[str, Any]]  # the original image, and the packed sample

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")

_RUN_NOW = "run now"
_PIXELS_AHEAD = 128_000_000  # of pictures that are read before the model asks for them; one always may


@dataclass(frozen=True)
class Source:
    """Where a picture comes from: a file, and of a video the number of the frame (from 0) and its frame rate."""

    path: Path
    frame: int | None = None
    frames_per_second: float | None = None

    @property
    def name(self) -> str:
        """Without folder and suffix."""
        return self.path.stem if self.frame is None else f"{self.path.stem}_{self.frame:06d}"


@dataclass(frozen=True)
class Prediction:
    """What became of one picture: the image uint8 [3, H, W] and its data sample, or the error of a bad file."""

    source: Source
    image: Tensor | None = None
    sample: BaseDataElement | None = None
    error: Exception | None = None


def find_sources(source: str | Path) -> list[Path]:
    """The images and videos that a file, a folder (with all folders below it) or a glob pattern stands for, sorted.

    Raises:
        UserError: There are none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    candidates = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = sorted(file for file in candidates if _is_source(file))
    if not found:
        raise UserError(f"{source}: no image or video there; give a file, a folder or a quoted glob pattern")
    return found


def _is_source(path: Path) -> bool:
    return path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not path.name.startswith(".")


def source_root(source: str | Path) -> Path:
    """The folder below which all of `find_sources(source)` lie, whichever of them exist today."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    fixed = path.parent
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def count_pictures(paths: Sequence[Path]) -> int | None:
    """Images and frames in files; None where a video does not tell its length."""
    counts = [count_frames(path) if path.suffix.lower() in VIDEO_SUFFIXES else 1 for path in paths]
    return None if None in counts else sum(filter(None, counts))


def stream(predictor: Predictor, paths: Sequence[Path], threads: int = 2) -> Iterator[Prediction]:
    """Predictions in the order of the files; for a file that cannot be read, one with the error.

    The model runs in the caller's thread whenever the next item is asked for.
    """
    ready: queue.Queue[Any] = queue.Queue(2 * (threads + predictor.batch_size))
    ahead = _Allowance(_PIXELS_AHEAD)
    with ThreadPoolExecutor(threads) as pool:
        feeder = threading.Thread(target=_feed, args=(predictor, paths, pool, ready, ahead), daemon=True)
        feeder.start()
        try:
            yield from _predict(predictor, ready, ahead)
        finally:
            ahead.stop()
            feeder.join()


class _Allowance:
    """Lets pixels in up to a limit; a picture that alone exceeds it enters when nothing else is inside."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside = 0
        self._stopped = False
        self._changed = threading.Condition()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def has_room(self, pixels: int) -> bool:
        return self._inside == 0 or self._inside + pixels <= self._limit

    def enter(self, pixels: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.has_room(pixels))
            self._inside += pixels

    def leave(self, pixels: int) -> None:
        with self._changed:
            self._inside -= pixels
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _predict(predictor: Predictor, ready: queue.Queue[Any], ahead: _Allowance) -> Iterator[Prediction]:
    waiting: list[tuple[Source, Prepared | Exception]] = []  # in order
    pixels_waiting = 0
    item: Any = True
    while item is not None:
        item = ready.get()
        if isinstance(item, tuple):
            source, pixels, future = item
            waiting.append((source, _outcome(future)))
            pixels_waiting += pixels
        prepared = [outcome for _, outcome in waiting if not isinstance(outcome, Exception)]
        if not isinstance(item, tuple) or len(prepared) == predictor.batch_size:
            samples = iter(predictor.predict([inputs for _, inputs in prepared]))
            ahead.leave(pixels_waiting)
            for source, outcome in waiting:
                if isinstance(outcome, Exception):
                    yield Prediction(source, error=outcome)
                else:
                    yield Prediction(source, image=outcome[0], sample=next(samples))
            waiting, pixels_waiting = [], 0


def _outcome(future: Future[Prepared]) -> Prepared | Exception:
    """The prepared picture, or what is wrong with its file; anything else is a bug and is raised."""
    try:
        return future.result()
    except (OSError, ValueError) as error:
        return error


def _feed(
    predictor: Predictor,
    paths: Sequence[Path],
    pool: ThreadPoolExecutor,
    ready: queue.Queue[Any],
    ahead: _Allowance,
) -> None:
    """Hand every picture to the pool, in order, no further ahead than the queue is long and the allowance lasts."""
    for source, picture in _pictures(paths):
        pixels = _pixels(picture)
        if not ahead.has_room(pixels):
            _put(ready, _RUN_NOW, ahead)  # or an incomplete batch would wait for this picture, and this one for it
        ahead.enter(pixels)
        if ahead.stopped or not _put(ready, (source, pixels, pool.submit(_prepare, predictor, picture)), ahead):
            return
    _put(ready, None, ahead)


def _pixels(picture: Picture | Exception) -> int:
    """The size of a picture that is yet to be read, from the head of its file; 0 where it cannot be read."""
    if not isinstance(picture, Path):
        return getattr(picture, "size", 0) // 3  # a frame
    try:
        height, width = image_size(picture)
    except UnreadableFile:  # reported when the file is read
        return 0
    return height * width


def _prepare(predictor: Predictor, picture: Picture | Exception) -> Prepared:
    if isinstance(picture, Exception):
        raise picture
    sample = predictor.load(picture)
    return sample["img"], predictor.transform(sample)


def _put(ready: queue.Queue[Any], item: Any, ahead: _Allowance) -> bool:
    while not ahead.stopped:
        try:
            ready.put(item, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False


def _pictures(paths: Sequence[Path]) -> Iterator[tuple[Source, Picture | Exception]]:
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield from read_frames(path)
        else:
            yield Source(path), path


def read_frames(path: Path) -> Iterator[tuple[Source, Picture | Exception]]:
    """RGB frames [H, W, 3] of a video."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        number, rate = 0, video.get(cv2.CAP_PROP_FPS) or 25.0
        while True:
            found, frame = video.read()
            if not found:
                break
            yield Source(path, number, rate), frame[:, :, ::-1]  # OpenCV decodes to BGR
            number += 1
        if number == 0:
            yield Source(path), UnreadableFile(f"{path}: not a video that OpenCV can read")
    finally:
        video.release()


def count_frames(path: Path) -> int | None:
    """The frames of a video; None where it does not tell."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        # 0 or negative where the container does not say
        return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
    finally:
        video.release()
