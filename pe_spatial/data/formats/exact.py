"""Numbers as texts without loss: what is written in fractions or percents of a picture comes back to the same pixel.

A float of 53 bits cannot hold every x / width so that times the width it gives x again. Texts can: they are written
with 24 digits and read as decimals, and only the pixel becomes a float, the nearest one.
"""

import re
from decimal import Context, Decimal

_WRITTEN = Context(prec=24)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)


def decimal(value: float) -> Decimal:
    """The decimal that the shortest text of a float stands for."""
    return Decimal(repr(value))


def parse_number(text: str) -> Decimal:
    """The value of a text.

    Raises:
        ValueError: It is not a finite number.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return Decimal(text)


def from_json(value: object) -> Decimal:
    """A number of a JSON file.

    Raises:
        ValueError: It is none, or not finite.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or value - value != 0:
        raise ValueError(value)
    return decimal(value)


def divide(value: Decimal, by: float) -> Decimal:
    """A quotient of 24 digits."""
    return _WRITTEN.divide(value, decimal(by))


def to_text(value: Decimal) -> str:
    """A decimal without exponent and without zeros at its end."""
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"
