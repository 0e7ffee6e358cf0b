"""Prediction over many files: pictures are read and prepared in background threads while the model works."""

import queue
import threading
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pe_spatial.common.errors import MissingPackage, PictureError, UnreadableFile, UserError
from pe_spatial.common.pictures import ValueRule, image_size, read_image
from pe_spatial.common.sources import Entry, resolve_sources
from pe_spatial.common.threads import side_threads
from pe_spatial.common.video import UnreadableFrame, VideoReader, count_frames
from pe_spatial.inference.inputs import Picture

Prepared = tuple[Tensor, dict[str, Any]]  # the original image, and the packed sample

_RUN_NOW = "run now"
_PIXELS_AHEAD = 128_000_000  # of pictures that are read before the model asks for them; one always may


class Streamed(Protocol):
    """What `stream` feeds: a `Predictor`, or another with the same steps.

    One with `read_video(path)`, which takes a path as `read_frames` does, says itself what of a video is seen.
    """

    batch_size: int
    max_pixels: int | None

    @property
    def rule(self) -> ValueRule:
        """How pictures of more than 8 bits and more than three bands are shown."""

    def load(self, picture: Picture) -> dict[str, Any]:
        """A sample whose `img` uint8 [3, H, W] is in the frame of the predictions."""

    def transform(self, sample: dict[str, Any]) -> dict[str, Any]:
        """What `predict` takes of it."""

    def predict(self, samples: Sequence[dict[str, Any]]) -> Sequence[Any]:
        """A data sample for each, or a mapping of names of models to theirs."""


@dataclass(frozen=True)
class Source:
    """Where a picture comes from.

    Attributes:
        path: The file; of an image in a tar, the path of the tar followed by the name of the member.
        frame: Of a video, the number of the frame from 0.
        frames_per_second: Of a video, on average.
        time: Of a video, when the frame is shown, in seconds from the start.
        duration: Of a video, for how long; None where the file does not say.
    """

    path: Path
    frame: int | None = None
    frames_per_second: float | None = None
    time: float | None = field(default=None, compare=False)
    duration: float | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Without folder and suffix."""
        return self.path.stem if self.frame is None else f"{self.path.stem}_{self.frame:06d}"


Waiting = tuple[Source, Picture | Entry | Exception]


@dataclass(frozen=True)
class Prediction:
    """What became of one picture: the image uint8 [3, H, W] and its data sample, or the error of a bad file.

    Of several models the sample is a mapping of their names to theirs.
    """

    source: Source
    image: Tensor | None = None
    sample: Any = None
    error: Exception | None = None


def count_pictures(files: Iterable[Path | Entry]) -> int | None:
    """Images and frames in files; None where a video cannot be read."""
    try:
        return sum(count_frames(entry.path) if entry.kind == "video" else 1 for entry in _entries(files))
    except UnreadableFile:
        return None


def stream(predictor: Streamed, paths: Sequence[Path | Entry], threads: int = 2) -> Generator[Prediction, None, None]:
    """Predictions in the order of the files.

    A picture that cannot be read, does not fit the model, or needs more memory than there is comes with the error. A
    batch that fails is repeated picture by picture first. After the first error of a video the rest of it is left out.

    The model runs in the caller's thread whenever the next item is asked for.
    """
    yield from _streamed(predictor, [paths], threads, together=False)


def stream_batches(
    predictor: Streamed, batches: Iterable[Sequence[Path | Entry]], threads: int = 2
) -> Generator[Prediction, None, None]:
    """Predictions as of `stream`; the pictures of a batch go through the model together, whatever their size.

    So what is computed together, and with it the last digit of a result, depends on the batches alone. The frames of
    a video go `batch_size` at a time.
    """
    yield from _streamed(predictor, batches, threads, together=True)


def _streamed(
    predictor: Streamed, batches: Iterable[Sequence[Path | Entry]], threads: int, together: bool
) -> Generator[Prediction, None, None]:
    ahead = _Allowance(2 * (threads + predictor.batch_size), _PIXELS_AHEAD)
    with side_threads(threads + 1) as pool:
        feed = _Feed(predictor, pool, ahead)
        feeding = pool.submit(feed.run, batches, together)
        try:
            for prediction in _predict(predictor, feed.ready, ahead):
                if prediction.error is not None:
                    feed.abandoned.add(prediction.source.path)
                yield prediction
            feeding.result()
        finally:
            ahead.stop()


class _Allowance:
    """Lets pictures in up to a number and a number of pixels; a larger one enters when nothing else is inside."""

    def __init__(self, pictures: int, pixels: int) -> None:
        self._limits = pictures, pixels
        self._pictures = self._pixels = 0
        self._stopped = False
        self._changed = threading.Condition()

    def has_room(self, pixels: int) -> bool:
        return self._pixels == 0 or self._pixels + pixels <= self._limits[1]

    def enter(self, pixels: int, pictures: int = 1) -> bool:
        """Wait for room; False if the work was stopped."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or (self._pictures < self._limits[0] and self.has_room(pixels))
            )
            self._pictures += pictures
            self._pixels += pixels
            return not self._stopped

    def leave(self, pictures: int, pixels: int) -> None:
        with self._changed:
            self._pictures -= pictures
            self._pixels -= pixels
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def _predict(predictor: Streamed, ready: queue.SimpleQueue[Any], ahead: _Allowance) -> Iterator[Prediction]:
    waiting: list[tuple[Source, Prepared | Exception]] = []  # in order
    prepared: list[Prepared] = []
    pixels_waiting = 0
    item: Any = True
    while item is not None:
        item = ready.get()
        if isinstance(item, tuple):
            source, pixels, future = item
            outcome = _outcome(source, future)
            waiting.append((source, outcome))
            if isinstance(outcome, Exception):
                ahead.leave(1, pixels)
            else:
                prepared.append(outcome)
                pixels_waiting += pixels
        if not isinstance(item, tuple) or len(prepared) == predictor.batch_size:
            samples = iter(predict_each(predictor, prepared))
            ahead.leave(len(prepared), pixels_waiting)
            for source, outcome in waiting:
                image, sample = (None, outcome) if isinstance(outcome, Exception) else (outcome[0], next(samples))
                if isinstance(sample, Exception):
                    yield Prediction(source, error=sample)
                else:
                    yield Prediction(source, image=image, sample=sample)
            waiting, prepared, pixels_waiting = [], [], 0


def predict_each(predictor: Streamed, batch: Sequence[Prepared]) -> list[Any]:
    """A data sample for every prepared picture, or what is wrong with it; anything else is a bug and is raised.

    A batch that fails is repeated picture by picture.

    Args:
        predictor: Whose `predict` runs.
        batch: Original images uint8 [3, H, W] with what `transform` made of them.
    """
    try:
        return list(predictor.predict([inputs for _, inputs in batch]))
    except (UserError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError):  # a disk, not a picture
            raise
        if not isinstance(error, UserError) and not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            height, width = batch[0][0].shape[-2:]
            too_large = PictureError(
                f"out of memory on a picture of {height} x {width} pixels (H x W); make it smaller with --image-size, "
                "or take a device with more memory"
            )
            return [error if isinstance(error, UserError) else too_large]
    # here the error, which holds the failed batch, is gone
    return [outcome for prepared in batch for outcome in predict_each(predictor, [prepared])]


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up, be it of the device or of the computer."""
    # torch has a class of its own for devices, but only a message for the memory of the computer
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _outcome(source: Source, future: Future[Prepared]) -> Prepared | Exception:
    """The prepared picture, or what is wrong with its file; anything else is a bug and is raised."""
    try:
        return future.result()
    except (OSError, UserError) as error:
        return error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return PictureError(f"{source.path}: out of memory while it was read")


@dataclass
class _Feed:
    """Hands pictures to threads, in order, no further ahead than the allowance lasts.

    Attributes:
        ready: Takes (source, pixels, future of the prepared picture), `_RUN_NOW`, and None at the end.
        abandoned: Videos of which no more frames are read.
    """

    predictor: Streamed
    pool: ThreadPoolExecutor
    ahead: _Allowance
    ready: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    abandoned: set[Path] = field(default_factory=set)

    def run(self, batches: Iterable[Sequence[Path | Entry]], together: bool) -> None:
        """Hand over every batch, `together` or picture by picture, until the work is stopped."""
        enter = self._enter_together if together else self._enter_one_by_one
        try:
            for batch in batches:
                if not enter(_pictures(batch, self.abandoned, self.predictor)):
                    return
        finally:
            self.ready.put(None)

    def _enter_one_by_one(self, pictures: Iterator[Waiting]) -> bool:
        for waiting in pictures:
            pixels = _pixels(waiting[1])
            if not self.ahead.has_room(pixels):
                self.ready.put(_RUN_NOW)  # or an incomplete batch would wait for this picture, and this one for it
            if not self.ahead.enter(pixels):
                return False
            self._hand_over(*waiting, pixels)
        return True

    def _enter_together(self, pictures: Iterator[Waiting]) -> bool:
        while batch := list(islice(pictures, self.predictor.batch_size)):
            pixels = [_pixels(picture) for _, picture in batch]
            if not self.ahead.enter(sum(pixels), len(batch)):
                return False
            for waiting, size in zip(batch, pixels, strict=True):
                self._hand_over(*waiting, size)
            self.ready.put(_RUN_NOW)
        return True

    def _hand_over(self, source: Source, picture: Picture | Entry | Exception, pixels: int) -> None:
        self.ready.put((source, pixels, self.pool.submit(_prepare, self.predictor, picture)))


def _pixels(picture: Picture | Entry | Exception) -> int:
    """The size of a picture that is yet to be read, from the head of its file; 0 where it cannot be read."""
    if not isinstance(picture, Path | Entry):
        return picture.numel() // 3 if isinstance(picture, Tensor) else 0
    try:
        place = (picture.path, picture.archive) if isinstance(picture, Entry) else (picture, None)
        height, width = image_size(*place)
    except (UnreadableFile, MissingPackage):  # reported when the file is read
        return 0
    return height * width


def _prepare(predictor: Streamed, picture: Picture | Entry | Exception) -> Prepared:
    if isinstance(picture, Exception):
        raise picture
    if isinstance(picture, Entry):
        most, rule = predictor.max_pixels, predictor.rule
        image: Picture = read_image(picture.path, archive=picture.archive, max_pixels=most, rule=rule)
    else:
        image = picture
    sample = predictor.load(image)
    return sample["img"], predictor.transform(sample)


def _entries(files: Iterable[Path | Entry]) -> Iterator[Entry]:
    for file in files:
        yield from [file] if isinstance(file, Entry) else resolve_sources([file])


def _pictures(files: Iterable[Path | Entry], abandoned: Container[Path], predictor: Streamed) -> Iterator[Waiting]:
    """The files and the frames of videos; an entry stands for a picture in an archive, which is read later."""
    read_video = getattr(predictor, "read_video", read_frames)
    for entry in _entries(files):
        if entry.kind == "video":
            for source, frame in read_video(entry.path):
                if entry.path in abandoned:
                    break
                yield source, frame
        else:
            yield Source(entry.path), entry.path if entry.archive is None else entry


def read_frames(path: Path) -> Iterator[tuple[Source, Picture | Exception]]:
    """The frames uint8 [3, H, W] RGB of a video; an error is the last item, in the place of the first that is bad."""
    try:
        video = VideoReader(path)
    except UnreadableFile as error:
        yield Source(path), error
        return
    with video:
        try:
            for frame in video.whole():
                yield Source(path, frame.number, video.frame_rate, frame.time, frame.duration), frame.image
        except UnreadableFrame as error:
            yield Source(path, error.number, video.frame_rate, error.time), error
