"""Pictures of several requests go through the model together, in one thread that owns it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from service.metrics import Metrics

LOGGER = logging.getLogger(__name__)
_SMOOTHING = 0.2  # weight of the newest batch in the time of a picture


@dataclass
class _Job:
    picture: Any
    key: Hashable
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Collects pictures until there are enough of a kind, or the oldest has waited long enough.

    A batch holds the oldest picture and those of its kind, so none waits for ever. One thread runs the model: several
    would share the same cores, and each would be slower.

    Args:
        run: Takes a list of pictures; returns as many outcomes, of which an exception is that of its picture alone.
        max_batch: Pictures at once.
        max_delay: Seconds that the oldest waits for others.
        metrics: Takes the sizes and times of the batches.
        prepare_thread: Called in the thread before the first batch.

    Attributes:
        seconds_per_picture: What the model has lately needed; 0 before the first batch.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        max_batch: int,
        max_delay: float,
        metrics: Metrics,
        prepare_thread: Callable[[], None] = lambda: None,
    ) -> None:
        self._run = run
        self._max_batch, self._max_delay = max_batch, max_delay
        self._metrics = metrics
        self._prepare_thread = prepare_thread
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self.seconds_per_picture = 0.0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether pictures are taken."""
        return self._thread.is_alive() and not self._stopped

    def submit(self, picture: Any, key: Hashable) -> Future[Any]:  # noqa: ANN401 - whatever `run` takes
        """Hand a picture over; the future has its outcome.

        Args:
            picture: What `run` takes.
            key: Only pictures of equal keys go through the model together.

        Raises:
            RuntimeError: The batcher was stopped.
        """
        job = _Job(picture, key)
        with self._changed:
            if self._stopped:
                raise RuntimeError("the service is stopping")
            self._waiting.append(job)
            self._changed.notify_all()
        return job.future

    def stop(self) -> None:
        """Take no more pictures, finish those that were taken, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        self._prepare_thread()
        while batch := self._next_batch():
            started = time.perf_counter()
            outcomes = self._outcomes(batch)
            seconds = time.perf_counter() - started
            self._metrics.batch_sizes.observe(len(batch))
            self._metrics.model_seconds.observe(seconds)
            latest, before = seconds / len(batch), self.seconds_per_picture
            self.seconds_per_picture = before + _SMOOTHING * (latest - before) if before else latest
            for job, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    job.future.set_exception(outcome)
                else:
                    job.future.set_result(outcome)
            del batch, outcomes  # or the pictures would stay in memory until the next ones come

    def _next_batch(self) -> list[_Job]:
        """The oldest picture and others of its kind; empty when the batcher was stopped and all are done."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return []
                first = self._waiting[0]
                left = max(first.since + self._max_delay - time.monotonic(), 0)
                self._changed.wait_for(partial(self._is_enough, first.key), timeout=left)
                chosen = [job for job in self._waiting if job.key == first.key][: self._max_batch]
                taken = {id(job) for job in chosen}
                self._waiting = deque(job for job in self._waiting if id(job) not in taken)
                # a request that was given up is left out here, and nowhere else
                if batch := [job for job in chosen if job.future.set_running_or_notify_cancel()]:
                    return batch

    def _is_enough(self, key: Hashable) -> bool:
        return self._stopped or sum(job.key == key for job in self._waiting) >= self._max_batch

    def _outcomes(self, batch: Sequence[_Job]) -> Sequence[Any]:
        """What the model says; a bug that one picture brings up costs the others nothing."""
        try:
            return self._run([job.picture for job in batch])
        except Exception as error:  # the thread must outlive every bug
            if len(batch) == 1:
                LOGGER.exception("the model failed on a picture")
                return [error]
        return [outcome for job in batch for outcome in self._outcomes([job])]
