"""The threads that write predictions while the model works."""

import errno
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from pe_spatial.common.errors import printable
from pe_spatial.common.threads import side_threads
from pe_spatial.inference.stream import Prediction, Source, is_out_of_memory

PIXELS_TO_WRITE = 64_000_000  # of pictures that wait to be written
PICTURES_TO_WRITE = 4


class Writes(Protocol):
    """What writes predictions: a `ResultsWriter`, or those of several models as one."""

    def plan(self, files: Mapping[str, str | Path]) -> list[str]:
        """See `ResultsWriter.plan`."""

    def write(self, name: str, image: Tensor, sample: Any, frame: int | None = None) -> Any:  # noqa: ANN401
        """See `ResultsWriter.write`."""

    def add_frame(self, source: Source, name: str, picture: Any) -> None:  # noqa: ANN401
        """See `ResultsWriter.add_frame`."""

    def finish_video(self, name: str, frames: int) -> None:
        """See `ResultsWriter.finish_video`."""

    def remove_video(self, name: str) -> None:
        """See `ResultsWriter.remove_video`."""

    def fail(self, name: str, problem: str) -> None:
        """See `ResultsWriter.fail`."""

    def leave(self) -> None:
        """See `ResultsWriter.leave`."""

    def close(self) -> Any:  # noqa: ANN401
        """See `ResultsWriter.close`."""


def write_all(
    predictions: Iterable[Prediction],
    writer: Writes,
    name_of: Callable[[Path], str],
    most: int = PICTURES_TO_WRITE,
) -> dict[str, str]:
    """Write and draw in threads while the model works; no more than a few pictures wait.

    Args:
        predictions: Of `stream`.
        writer: Of the task.
        name_of: The name of a file in the results.
        most: Pictures that may wait to be written; more than a batch, or the model would wait for the disk.

    Returns:
        Why pictures failed, by their names. A video fails with its first frame that does.
    """
    failed: dict[str, str] = {}
    with closing(_write_ahead(predictions, writer, name_of, most)) as written:
        for name, outcomes in groupby(written, key=itemgetter(0)):
            frames = 0
            for _, source, picture, problem in outcomes:
                if name in failed:
                    continue
                if problem is not None:
                    writer.fail(name, problem)
                    failed[name] = problem
                elif source.frame is not None:
                    writer.add_frame(source, name, picture)
                    frames += 1
            if name in failed:
                writer.remove_video(name)  # when the frames after the first that failed are written too
            elif frames:
                writer.finish_video(name, frames)
    return failed


Outcome = tuple[str, Source, Any, str | None]  # name, source, drawn picture, problem


@contextmanager
def _waiting_for(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Wait for the threads when the block ends, and again where Ctrl-C ends that: the lists name what they finish."""
    try:
        with pool:
            yield
    finally:
        pool.shutdown()


def _write_ahead(
    predictions: Iterable[Prediction], writer: Writes, name_of: Callable[[Path], str], most: int
) -> Generator[Outcome, None, None]:
    """Write in threads; what became of the predictions comes in their order."""
    waiting: deque[tuple[str, Source, int, Future[Any] | str]] = deque()
    pool = side_threads(2)
    with _waiting_for(pool):
        for prediction in predictions:
            source, image = prediction.source, prediction.image
            name = name_of(source.path)
            if image is None:
                waiting.append((name, source, 0, str(prediction.error)))
            else:
                future = pool.submit(writer.write, name, image, prediction.sample, source.frame)
                waiting.append((name, source, image.shape[-2] * image.shape[-1], future))
            while len(waiting) > most or sum(pixels for _, _, pixels, _ in waiting) > PIXELS_TO_WRITE:
                yield _outcome(*waiting.popleft())
        while waiting:
            yield _outcome(*waiting.popleft())


def _outcome(name: str, source: Source, _: int, written: Future[Any] | str) -> Outcome:
    if isinstance(written, str):
        return name, source, None, written
    try:
        return name, source, written.result(), None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return name, source, None, f"{printable(name)}: its results would have too long a path; give a shorter --output"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return name, source, None, "out of memory while its picture was made; --no-pictures needs less"
