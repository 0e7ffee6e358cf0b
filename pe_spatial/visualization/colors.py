"""Colors of classes and of numbers."""

from colorsys import hsv_to_rgb
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# a path through the color map at equal steps, dark blue through green and orange to light yellow
_RAMP = ((13, 8, 60), (36, 61, 130), (31, 120, 130), (64, 165, 90), (170, 190, 60), (245, 200, 90), (255, 250, 205))

_STRIP = 2**18  # pixels whose colors are computed at a time

Color = int | tuple[int, int, int]  # the number of a class or an object, or red, green and blue


def rgb_of(color: Color) -> tuple[int, int, int]:
    """Red, green and blue of a color."""
    return color_of(color) if isinstance(color, int) else color


# Color-blind people tell the first seven apart (Okabe and Ito); the other nine are as far from these as can be.
_FIRST = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (213, 94, 0), (86, 180, 233), (240, 228, 66)),
    *((132, 26, 160), (122, 252, 40), (252, 40, 185), (40, 242, 252), (160, 52, 26), (149, 160, 26), (206, 30, 54)),
    *((139, 42, 252), (26, 38, 160)),
)
DISTINCT = len(_FIRST)  # colors that an eye keeps apart


@cache
def color_of(index: int) -> tuple[int, int, int]:
    """The color of an object by its number, from 0; the first seven are safe for color-blind people."""
    return _FIRST[index] if index < DISTINCT else bright_color(index)


def bright_color(index: int) -> tuple[int, int, int]:
    """A bright color by its number, from 0. Objects had these once, so that older mask files hold them."""
    hue = index * 0.61803398875 % 1  # the golden ratio keeps neighbors apart, however many there are
    value = (1.0, 0.8, 0.62)[index // 5 % 3]
    red, green, blue = (round(255 * level) for level in hsv_to_rgb(hue, 0.85, value))
    return red, green, blue


def palette(count: int = 256) -> Tensor:
    """Distinct colors of object numbers, uint8 [count, 3]; color 0 is black, for background and for PNG palettes.

    Classes have colors by their names: `class_colors`.
    """
    return torch.tensor([(0, 0, 0), *map(color_of, range(count - 1))], dtype=torch.uint8)


def ramp_colors(levels: Tensor) -> Tensor:
    """Numbers [H, W] as colors uint8 [3, H, W], from dark blue at 0 and below to light yellow at 1 and above."""
    colors = torch.empty(*levels.shape, 3, dtype=torch.uint8)
    rows = max(_STRIP // max(levels.shape[-1], 1), 1)
    for top in range(0, len(levels), rows):  # the colors of a strip are in floating point
        colors[top : top + rows] = _ramp_of(levels[top : top + rows])
    return colors.permute(2, 0, 1)


def _ramp_of(levels: Tensor) -> Tensor:
    """Numbers [H, W] as colors uint8 [H, W, 3]; most are looked up by their step, of which no other color is a part."""
    steps = _ramp_steps()
    step = (levels.clamp(0, 1) * (len(steps) - 1)).int().numpy()
    found = np.take(steps, step).view(np.uint8).reshape(*step.shape, 4)
    colors = torch.from_numpy(found)[..., :3]
    mixed = torch.from_numpy(found[..., 3]) > 0
    if mixed.any():
        colors[mixed] = _interpolated(levels[mixed])
    return colors


@cache
def _ramp_steps() -> NDArray[np.uint32]:
    """The color of every step of levels [S] in three bytes, and in the fourth whether it is not the color of all."""
    count = 2**15
    edges = _interpolated(torch.arange(count + 1, dtype=torch.float64).div(count).float())
    others = (edges[1:] != edges[:-1]).any(1)  # of a step and the next
    mixed = torch.ones(count + 1, 1, dtype=torch.uint8)
    mixed[1:-1, 0] = others[1:] | others[:-1]
    return torch.cat([edges, mixed], dim=1).numpy().view(np.uint32)[:, 0]


def _interpolated(levels: Tensor) -> Tensor:
    """Numbers [...] as colors uint8 [..., 3]."""
    stops = torch.tensor(_RAMP, dtype=torch.float32)  # [S, 3]
    place = levels.clamp(0, 1) * (len(stops) - 1)
    lower = place.floor().long().clamp(max=len(stops) - 2)
    color = torch.lerp(stops[lower], stops[lower + 1], (place - lower)[..., None])
    return color.round().to(torch.uint8)


def quantile(values: Tensor, fraction: float) -> Tensor:
    """The number below which a fraction of the values [N] lies; torch.quantile refuses more than 16 million."""
    return values.kthvalue(round(fraction * (len(values) - 1)) + 1).values
