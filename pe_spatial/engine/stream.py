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

from pe_spatial.data.loading import IMAGE_SUFFIXES, UnreadableFile
from pe_spatial.engine.errors import UserError
from pe_spatial.engine.predictor import Picture, Predictor

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Source:
    """Where a picture comes from: a file, and of a video the number of the frame (from 0)."""

    path: Path
    frame: int | None = None

    @property
    def name(self) -> str:
        """Without folder and suffix."""
        return self.path.stem if self.frame is None else f"{self.path.stem}_{self.frame:06d}"


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


def stream(
    predictor: Predictor, paths: Sequence[Path], threads: int = 2
) -> Iterator[tuple[Source, BaseDataElement | Exception]]:
    """Predictions in the order of the files; for a file that cannot be read, the error instead.

    The model runs in the caller's thread whenever the next item is asked for.
    """
    ready: queue.Queue[tuple[Source, Future[dict[str, Any]]] | None] = queue.Queue(2 * (threads + predictor.batch_size))
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        feeder = threading.Thread(target=_feed, args=(predictor, paths, pool, ready, stop), daemon=True)
        feeder.start()
        try:
            yield from _predict(predictor, ready)
        finally:
            stop.set()
            feeder.join()


def _predict(predictor: Predictor, ready: queue.Queue[Any]) -> Iterator[tuple[Source, BaseDataElement | Exception]]:
    waiting: list[tuple[Source, Any]] = []  # prepared pictures and errors, in order
    item: Any = True
    while item is not None:
        item = ready.get()
        if item is not None:
            source, future = item
            error = future.exception()
            waiting.append((source, error or future.result()))
        prepared = [outcome for _, outcome in waiting if not isinstance(outcome, BaseException)]
        if item is None or len(prepared) == predictor.batch_size:
            predictions = iter(predictor.predict(prepared))
            for source, outcome in waiting:
                if isinstance(outcome, BaseException) and not isinstance(outcome, OSError | ValueError):
                    raise outcome  # a bug, not a bad file
                yield source, outcome if isinstance(outcome, Exception) else next(predictions)
            waiting = []


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


def _prepare(predictor: Predictor, picture: Picture | Exception) -> dict[str, Any]:
    if isinstance(picture, Exception):
        raise picture
    return predictor.prepare(picture)


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
        number = 0
        while True:
            found, frame = video.read()
            if not found:
                break
            yield Source(path, number), frame[:, :, ::-1]  # OpenCV decodes to BGR
            number += 1
        if number == 0:
            yield Source(path), UnreadableFile(f"{path}: not a video that OpenCV can read")
    finally:
        video.release()
