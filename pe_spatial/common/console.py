"""What a program says beside its results: errors, warnings and progress, all on standard error."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from pe_spatial.common.errors import printable

if TYPE_CHECKING:  # rich takes a while to import, and `--help` needs none of it
    from rich.progress import Progress

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 15.0  # of progress where standard error is no terminal


def print_error(message: str) -> None:
    """Print `error: ...`; the message is not interpreted or wrapped."""
    _print(f"error: {message}")


def print_warning(message: str) -> None:
    """Print `warning: ...`; the message is not interpreted or wrapped."""
    _print(f"warning: {message}")


def print_note(message: str) -> None:
    """Print a line about the course of the work."""
    _print(message)


def _print(text: str) -> None:
    print(printable(text, keep="\n\t"), file=sys.stderr)  # noqa: T201 - this is the console


def warning_hook(say: Callable[[str], object]) -> Callable[..., None]:
    """A value for `warnings.showwarning` that passes the text of a warning to `say`, without the source line."""

    def show(message: Warning | str, *_: object) -> None:
        say(str(message))

    return show


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show Python's warnings as `print_warning` does, until the block ends."""
    before, warnings.showwarning = warnings.showwarning, warning_hook(print_warning)
    try:
        yield
    finally:
        warnings.showwarning = before


class Bar:
    """Progress of one piece of work: a bar on a terminal, elsewhere a line now and then.

    Args:
        description: What is done.
        total: Number of steps; None where it is not known.
        unit: What a step is, for the rate.
        drawing: The bar on a terminal; None elsewhere.
        shown: False hides everything.
    """

    def __init__(self, description: str, total: int | None, unit: str, drawing: Progress | None, shown: bool) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self._unit = unit
        self._drawing = drawing
        self._shown = shown
        self._started = self._last_line = time.monotonic()
        self._task = None if drawing is None else drawing.add_task(description, total=total, rate="")

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        """Count steps as done; `description` replaces what stands before the bar."""
        self.done += steps
        self.description = self.description if description is None else printable(description)
        now = time.monotonic()
        rate = self.done / max(now - self._started, 1e-9)
        if self._drawing is not None and self._task is not None:
            text = f"{rate:.3g} {self._unit}/s"
            self._drawing.update(self._task, completed=self.done, description=self.description, rate=text)
        elif self._shown and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = left = ""
            if self.total is not None:
                seconds = round((self.total - self.done) / rate)
                of, left = f"/{self.total}", f", {timedelta(seconds=seconds)} left"
            print_note(f"{self.description or self._unit}: {self.done}{of}, {rate:.3g} {self._unit}/s{left}")


@contextmanager
def progress(description: str = "", total: int | None = None, unit: str = "steps", shown: bool = True) -> Iterator[Bar]:
    """Show the progress of the block.

    Args:
        description: What is done; stands before the bar.
        total: Number of steps; None where it is not known.
        unit: What a step is, for the rate: `images`, `frames`.
        shown: False hides it, for example in all processes but the first.

    Yields:
        The bar to `advance`.
    """
    if not shown or not sys.stderr.isatty():
        yield Bar(description, total, unit, None, shown)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as drawing:
        yield Bar(description, total, unit, drawing, shown)


def track(
    items: Iterable[Item], description: str = "", total: int | None = None, unit: str = "steps", shown: bool = True
) -> Iterator[Item]:
    """Yield the items and show how many are done; arguments as of `progress`, `total` is their number if known."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(description, total, unit, shown) as bar:
        for item in items:
            yield item
            bar.advance()
