"""Errors that a user can mend; the command line shows their message without a traceback."""

import errno
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something outside the code is wrong: the message names the value, the rule and the remedy.

    Characters that a terminal would obey, such as an escape sequence in the name of a file, are written out.
    """

    _one_line = False  # whether a line break can only come from a name

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        keep = "" if self._one_line else "\n"
        self.args = tuple(printable(text, keep) if isinstance(text, str) else text for text in self.args)


class ConfigError(UserError, ValueError):
    """A config file or an override."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is missing, damaged, foreign, or cannot be written."""

    _one_line = True


class UnreadableFile(UserError, OSError):  # noqa: N818 - names the state of the file, as FileNotFoundError does
    """A file is missing, truncated or not what its name says. The message names the file."""

    _one_line = True


class AnnotationError(UserError, ValueError):
    """Annotations that are missing, or contradict themselves, their dataset or its images; they are never skipped."""

    _one_line = True


class FullDiskError(UserError, OSError):
    """No space is left for a file; the message names it."""

    errno = errno.ENOSPC


class PictureError(UserError, ValueError):
    """A picture that is none, or that the model cannot take; others may be fine."""

    _one_line = True


class DivergedError(UserError, FloatingPointError):
    """The loss is no longer finite."""


class NotEnoughMemory(UserError, MemoryError):  # noqa: N818 - names what happened, as FileNotFoundError does
    """A training needs more memory than there is; the message names changes that need less."""


class OptionError(UserError, ValueError):
    """An argument or an option that is out of its range."""


class UnknownName(UserError, KeyError):  # noqa: N818 - names what happened, as FileNotFoundError does
    """A name that is not among those that are known."""

    __str__ = Exception.__str__  # a KeyError quotes its message


class MissingPackage(UserError, ModuleNotFoundError):  # noqa: N818 - as FileNotFoundError
    """An optional third party is not installed; the message says how to install it."""


def printable(text: str, keep: str = "") -> str:
    """A text, such as the name of a file, in which what a terminal would obey is written out.

    Args:
        text: Any; it may hold the bytes of a name that is no valid text (Python's surrogates).
        keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter in keep or _is_harmless(letter) else ascii(letter)[1:-1] for letter in text)


def _is_harmless(letter: str) -> bool:
    # other spaces, and the joiners of emoji and of Persian names, are no "printable" characters for Python
    return letter.isprintable() or unicodedata.category(letter) == "Zs" or letter in "\u200c\u200d"


def few(items: Iterable[object], shown: int = 3) -> str:
    """The first of several things for a message: "a, b, c, …"."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:shown] + ["…"] * (len(texts) > shown))


def suggest(name: str, options: Iterable[str]) -> str:
    """The nearest of the options as a question ("did you mean …?"), or all of them where none is near."""
    choices = sorted(options)
    near = get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"it knows: {few(choices, 30)}" if choices else "it takes none"


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is not one of several.

    Raises:
        OptionError: It is none of them; the message lists them.
    """
    known = list(choices)
    if value not in known:
        raise OptionError(f"{name} {value!r} is not one of {', '.join(known)}")


def require_positive(**numbers: float) -> None:
    """Refuse counts below 1.

    Raises:
        OptionError: One of them is; the message names it.
    """
    for name, number in numbers.items():
        if number < 1:
            raise OptionError(f"{name} {number} must be at least 1")
