"""What goes wrong, or is said, while data are examined becomes a finding: an examination always comes to its end."""

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import MMLogger

from pe_spatial.common.errors import UserError
from pe_spatial.doctor.findings import Finding

_LONGEST = 400  # letters of a foreign message


@contextmanager
def attempting(add: Callable[[Iterable[Finding]], object], rule: str) -> Iterator[None]:
    """In the block, whatever is raised ends the block and is an error among the findings.

    Args:
        add: Takes findings.
        rule: What is wrong then.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a stranger's loader or check may raise anything
        add([Finding("error", rule, describe(error))])


def describe(error: Exception) -> str:
    """The message of an error that speaks to the user; of another one its kind, message and place."""
    if isinstance(error, UserError | OSError) and str(error):
        return str(error)
    text = " ".join(str(error).split())[:_LONGEST]
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


@contextmanager
def overheard(add: Callable[[Iterable[Finding]], object]) -> Iterator[None]:
    """In the block, warnings in the log are findings, not lines: what datasets leave out is said there.

    Args:
        add: Takes findings.
    """
    logger = MMLogger.get_current_instance()
    before = logger.handlers
    logger.handlers = [_Listener(add)]
    try:
        yield
    finally:
        logger.handlers = before


class _Listener(logging.Handler):
    def __init__(self, add: Callable[[Iterable[Finding]], object]) -> None:
        super().__init__(logging.INFO)
        self._add = add

    def emit(self, record: logging.LogRecord) -> None:
        self._add([Finding("warning" if record.levelno >= logging.WARNING else "note", record.getMessage())])
