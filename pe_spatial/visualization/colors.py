"""Colors of classes and of numbers."""

from colorsys import hsv_to_rgb
from functools import cache

import torch
from torch import Tensor

# a path through the color map at equal steps, dark blue through green and orange to light yellow
_RAMP = ((13, 8, 60), (36, 61, 130), (31, 120, 130), (64, 165, 90), (170, 190, 60), (245, 200, 90), (255, 250, 205))


Color = int | tuple[int, int, int]  # the number of a class or an object, or red, green and blue


def rgb_of(color: Color) -> tuple[int, int, int]:
    """Red, green and blue of a color."""
    return color_of(color) if isinstance(color, int) else color


@cache
def color_of(index: int) -> tuple[int, int, int]:
    """The color of a class or an object by its number, from 0."""
    hue = index * 0.61803398875 % 1  # the golden ratio keeps neighbors apart, however many there are
    value = (1.0, 0.8, 0.62)[index // 5 % 3]
    red, green, blue = (round(255 * level) for level in hsv_to_rgb(hue, 0.85, value))
    return red, green, blue


def palette(count: int = 256) -> Tensor:
    """Distinct colors, uint8 [count, 3]; color 0 is black, for background and for PNG palettes."""
    return torch.tensor([(0, 0, 0), *map(color_of, range(count - 1))], dtype=torch.uint8)


def ramp_colors(levels: Tensor) -> Tensor:
    """Numbers [H, W] as colors uint8 [3, H, W], from dark blue at 0 and below to light yellow at 1 and above."""
    stops = torch.tensor(_RAMP, dtype=torch.float32)  # [S, 3]
    place = levels.clamp(0, 1) * (len(stops) - 1)
    lower = place.floor().long().clamp(max=len(stops) - 2)
    color = torch.lerp(stops[lower], stops[lower + 1], (place - lower)[..., None])  # [H, W, 3]
    return color.round().to(torch.uint8).permute(2, 0, 1)


def quantile(values: Tensor, fraction: float) -> Tensor:
    """The number below which a fraction of the values [N] lies; torch.quantile refuses more than 16 million."""
    return values.sort().values[round(fraction * (len(values) - 1))]
