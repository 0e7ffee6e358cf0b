"""Values of many bits and bands to pictures of 8 bits and three colors: by a stated rule, or a guess that is said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import OptionError, PictureError
from pe_spatial.common.picture_files import say_once
from pe_spatial.common.pictures.layout import Layout

FEW_LEVELS = 32  # of 256 gray levels
_SENSORS = (8, 10, 12, 14, 16)  # bits that cameras have, in files of 16


@dataclass(frozen=True)
class ValueRule:
    """How the values of a dataset's pictures are shown.

    Args:
        value_range: (black, white) of values of more than 8 bits. Without it, unsigned values of up to 16 bits reach
            from 0 to the greatest of the 8, 10, 12, 14 or 16 bits that the file needs, which is said unless it is 16;
            others are refused. Values of 8 bits stay as they are.
        bands: The bands that are red, green and blue, or the one that is gray; the first is 1. Without it, the first
            three of a file that has colors, or three bands; or the only one.
    """

    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None

    @classmethod
    def of(cls, value_range: Sequence[float] | None = None, bands: Sequence[int] | None = None) -> "ValueRule":
        """A rule as options state it.

        Raises:
            OptionError: No range, or no bands.
        """
        if value_range is not None:
            ends = list(value_range) if isinstance(value_range, Sequence) and not isinstance(value_range, str) else []
            if len(ends) != 2 or not all(_is_number(end) for end in ends) or not ends[0] < ends[1]:
                raise OptionError(
                    f"value_range {value_range!r} is not a pair of numbers (the values that become black and white), "
                    "such as [0, 4095] for 12 bits"
                )
            value_range = (ends[0], ends[1])
        if bands is not None:
            numbers = list(bands) if isinstance(bands, Sequence) and not isinstance(bands, str) else []
            if len(numbers) not in (1, 3) or not all(type(number) is int and number > 0 for number in numbers):
                raise OptionError(
                    f"bands {bands!r} must be the numbers of three bands (red, green, blue) or of one; the first band "
                    "is 1, as in [3, 2, 1]"
                )
            bands = tuple(numbers)
        return cls(value_range, bands)

    def select(self, values: NDArray[Any], layout: Layout, name: str) -> NDArray[Any]:
        """Of the bands [H, W, N] of a file those that are shown, [H, W, 3] or [H, W, 1].

        Raises:
            PictureError: There is no such band, or nothing says which bands to take.
        """
        count = values.shape[2]
        if self.bands is not None:
            if max(self.bands) > count:
                raise PictureError(f"it is {layout}, which has no band {max(self.bands)}; correct bands {self.bands}")
            return values[..., [number - 1 for number in self.bands]]
        if layout.has_colors and count >= 3:
            return values[..., :3]
        if count == 1 or count == 2 and layout.has_alpha:
            return values[..., :1]
        if count != 3:
            raise PictureError(
                f"it is {layout}, and it is not known which bands are red, green and blue; set bands, such as "
                f"{[1, 2, 3] if count > 2 else [1]}, or convert it to an RGB file of 8 or 16 bits"
            )
        say_once(
            name, f"{layout} that are not called colors is taken as red, green and blue; set bands for another order"
        )
        return values

    def to_8_bits(self, values: NDArray[Any], layout: Layout, name: str) -> NDArray[np.uint8]:
        """Values of any kind as 0…255.

        Raises:
            PictureError: Nothing says which values are black and white.
        """
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * 255
        if values.dtype == np.uint8:
            return values
        if self.value_range is not None:
            return _stretched(values, *self.value_range, name)
        if values.dtype.kind == "f" or int(values.min()) < 0 or int(values.max()) > 65535:
            raise PictureError(f"it is {layout}, {_reach(values)}; set value_range, the values of black and of white")
        bits = guessed_bits(values, layout)
        if bits < 16:
            say_once(
                name,
                f"{layout} uses {bits} bits, so its values are taken as 0…{2**bits - 1} (as 0…65535, "
                f"{2 ** (bits - 8)} gray levels would be left); set value_range for another rule",
            )
        shown = (values >> (bits - 8)).astype(np.uint8)
        levels = int(np.count_nonzero(np.bincount(shown.ravel(), minlength=256)))
        if levels <= FEW_LEVELS and len(np.unique(values)) > 2 * levels:
            say_once(
                name, f"{layout}: {levels} of 256 gray levels are left of more values; set value_range for another rule"
            )
        return shown


def guessed_bits(values: NDArray[Any], layout: Layout) -> int:
    """How many bits unsigned values of up to 16 are taken to have, where no rule says so."""
    if layout.is_scaled:
        return 16
    needed = int(values.max()).bit_length()
    return next(bits for bits in _SENSORS if bits >= needed)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _reach(values: NDArray[Any]) -> str:
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return "and none of its values is a number"
    return f"whose values reach from {finite.min():g} to {finite.max():g}"


def _stretched(values: NDArray[Any], black: float, white: float, name: str) -> NDArray[np.uint8]:
    wide = values.astype(np.float64)
    if values.dtype.kind != "f":  # as many values for every level: 0…4095 is a shift by 4 bits
        return np.clip((wide - black) * (256 / (white + 1 - black)), 0, 255).astype(np.uint8)
    missing = np.isnan(wide)
    if missing.any():
        say_once(name, "its NaN values become black")
        wide[missing] = black
    return np.rint(np.clip((wide - black) / (white - black), 0, 1) * 255).astype(np.uint8)
