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

from pe_spatial.data.loading import IMAGE_SUFFIXES, UnreadableFile
from pe_spatial.engine.errors import UserError
from pe_spatial.engine.predictor import Picture, Predictor

Prepared = tuple[Tensor, dict[str, Any]]  # the original image, and the packed sample

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


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
    found = sorted(file for file in candidates if file.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    if not found:
        raise UserError(f"{source}: no image or video there; give a file, a folder or a quoted glob pattern")
    return found


def count_pictures(paths: Sequence[Path]) -> int | None:
    """Images and frames in files; None where a video does not tell its length."""
    counts = [_frame_count(path) if path.suffix.lower() in VIDEO_SUFFIXES else 1 for path in paths]
    return None if None in counts else sum(filter(None, counts))


def stream(predictor: Predictor, paths: Sequence[Path], threads: int = 2) -> Iterator[Prediction]:
    """Predictions in the order of the files; for a file that cannot be read, one with the error.

    The model runs in the caller's thread whenever the next item is asked for.
    """
    ready: queue.Queue[tuple[Source, Future[Prepared]] | None] = queue.Queue(2 * (threads + predictor.batch_size))
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        feeder = threading.Thread(target=_feed, args=(predictor, paths, pool, ready, stop), daemon=True)
        feeder.start()
        try:
            yield from _predict(predictor, ready)
        finally:
            stop.set()
            feeder.join()


def _predict(predictor: Predictor, ready: queue.Queue[Any]) -> Iterator[Prediction]:
    waiting: list[tuple[Source, Prepared | Exception]] = []  # in order
    item: Any = True
    while item is not None:
        item = ready.get()
        if item is not None:
            source, future = item
            waiting.append((source, _outcome(future)))
        prepared = [outcome for _, outcome in waiting if not isinstance(outcome, Exception)]
        if item is None or len(prepared) == predictor.batch_size:
            samples = iter(predictor.predict([inputs for _, inputs in prepared]))
            for source, outcome in waiting:
                if isinstance(outcome, Exception):
                    yield Prediction(source, error=outcome)
                else:
                    yield Prediction(source, image=outcome[0], sample=next(samples))
            waiting = []


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
    stop: threading.Event,
) -> None:
    """Hand every picture to the pool, in order, no further ahead than the queue is long."""
    for source, picture in _pictures(paths):
        if not _put(ready, (source, pool.submit(_prepare, predictor, picture)), stop):
            return
    _put(ready, None, stop)


def _prepare(predictor: Predictor, picture: Picture | Exception) -> Prepared:
    if isinstance(picture, Exception):
        raise picture
    sample = predictor.load(picture)
    return sample["img"], predictor.transform(sample)


def _put(ready: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.2)
            return True
        except queue.Full:
            continue
    return False


def _pictures(paths: Sequence[Path]) -> Iterator[tuple[Source, Picture | Exception]]:
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield from _frames(path)
        else:
            yield Source(path), path


def _frames(path: Path) -> Iterator[tuple[Source, Picture | Exception]]:
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


def _frame_count(path: Path) -> int | None:
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        # 0 or negative where the container does not say
        return max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
    finally:
        video.release()
