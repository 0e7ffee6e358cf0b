"""Single values of annotation files: what a file of another tool writes is converted where its meaning is plain.

Every function raises ValueError with the rule where it is not.
"""

import math
from typing import Any

from pe_spatial.common.names import leaves

LARGEST_ID = 2**63 - 1
LONGEST_SIDE = 10**6  # pixels

_FLAGS = {"0": False, "1": True, "false": False, "true": True, "": False}


def integer(value: Any) -> int:
    """An integer, also as 3.0 or "3"; 64 bits hold it."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            number = None
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or abs(number) > LARGEST_ID:
        raise ValueError(f"{shown(value)}, but must be an integer")
    return number


def number(value: Any) -> float:
    """A finite number, also as "3.5"."""
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"{shown(value)}, but must be a finite number")
    return result


def area(value: Any) -> float:
    """A finite number of 0 or more."""
    pixels = number(value)
    if pixels < 0:
        raise ValueError(f"{shown(value)}, but must be 0 or more square pixels")
    return pixels


def flag(value: Any) -> bool:
    """True or false, also as 1 or 0, "1" or "0", "true" or "false"; null is false."""
    key = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if key not in _FLAGS or isinstance(value, list | dict):
        raise ValueError(f"{shown(value)}, but must be 0 or 1")
    return _FLAGS[key]


def text(value: Any) -> str:
    """A text that is not empty; a number is taken by its digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{shown(value)}, but must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a pair of surrogates, as names of files have that are not in UTF-8
        raise ValueError(f"{shown(value)}, but must be text that UTF-8 can encode") from None
    return value


def any_name(value: Any) -> str:
    """A path of any machine."""
    name = text(value)
    if "\0" in name:
        raise ValueError(f"{shown(value)}, but must be the path of a file")
    return name


def file_name(value: Any) -> str:
    """A path below a folder, or an address: it is not absolute, and has no part `..` that leads out."""
    name = text(value)
    if leaves(name) or "\0" in name:
        raise ValueError(f"{shown(value)}, but must be a path below the folder of the files, without '..'")
    return name


def side(value: Any) -> int:
    """A height or a width in pixels."""
    pixels = integer(value)
    if not 1 <= pixels <= LONGEST_SIDE:
        raise ValueError(f"{shown(value)}, but must be 1 to {LONGEST_SIDE:,} pixels")
    return pixels


def box(value: Any) -> tuple[float, float, float, float]:
    """Four finite numbers."""
    if isinstance(value, list | tuple) and len(value) == 4:
        try:
            x, y, width, height = map(number, value)
            return x, y, width, height
        except ValueError:
            pass
    raise ValueError(f"{shown(value)}, but must be four finite numbers [x, y, width, height]")


def color(value: Any) -> tuple[int, int, int]:
    """Red, green and blue."""
    if isinstance(value, list | tuple) and len(value) == 3:
        try:
            red, green, blue = map(integer, value)
        except ValueError:
            red = green = blue = -1
        if min(red, green, blue) >= 0 and max(red, green, blue) <= 255:
            return red, green, blue
    raise ValueError(f"{shown(value)}, but must be [red, green, blue] of 0…255")


def shown(value: Any) -> str:
    """A value for a message, not longer than 80 characters."""
    result = repr(value)
    return result if len(result) <= 80 else result[:77] + "..."
