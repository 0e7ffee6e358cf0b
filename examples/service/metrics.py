"""Figures of the service in Prometheus' text format."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Counter:
    """Counts events by one label; any thread may add."""

    kind = "counter"

    def __init__(self, label: str) -> None:
        self.label = label
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, value: object) -> None:
        """Count one event with this value of the label."""
        with self._lock:
            self.counts[str(value)] = self.counts.get(str(value), 0) + 1

    def lines(self, name: str) -> Iterator[str]:
        """The samples."""
        for value, count in sorted(self.counts.items()):
            yield f'{name}{{{self.label}="{value}"}} {count}'


class Histogram:
    """Counts values at or below bounds; any thread may observe."""

    kind = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Values that were observed."""
        return sum(self._counts)

    def observe(self, value: float) -> None:
        """Count a value."""
        with self._lock:
            self._counts[bisect_left(self.bounds, value)] += 1
            self.total += value

    def lines(self, name: str) -> Iterator[str]:
        """The samples: counts add up from bound to bound."""
        with self._lock:
            counts, total = list(self._counts), self.total
        below = 0
        for bound, count in zip((*self.bounds, "+Inf"), counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {total:g}"
        yield f"{name}_count {below}"


class Gauge:
    """A figure that is asked for when the text is written."""

    kind = "gauge"

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read

    def lines(self, name: str) -> Iterator[str]:
        """The sample."""
        yield f"{name} {self.read():.17g}"


Metric = Counter | Histogram | Gauge


class Metrics:
    """All figures, by name with what they mean."""

    def __init__(self) -> None:
        self.requests = Counter("status")
        self.request_seconds = Histogram(SECONDS)
        self.batch_sizes = Histogram(SIZES)
        self.model_seconds = Histogram(SECONDS)
        self._all: dict[str, tuple[str, Metric]] = {
            "pe_spatial_requests_total": ("Requests for predictions by the status of their answer", self.requests),
            "pe_spatial_request_seconds": (
                "From the first byte to the answer, of requests that got 200",
                self.request_seconds,
            ),
            "pe_spatial_batch_size": ("Pictures that went through the model at once", self.batch_sizes),
            "pe_spatial_model_seconds": ("Time of the model for a batch", self.model_seconds),
        }

    def add(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a figure that is read when it is asked for."""
        self._all[name] = (meaning, Gauge(read))

    def text(self) -> str:
        """The text that Prometheus scrapes."""
        lines = []
        for name, (meaning, metric) in self._all.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {metric.kind}", *metric.lines(name)]
        return "\n".join(lines) + "\n"
