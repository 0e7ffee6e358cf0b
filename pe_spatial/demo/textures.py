"""Surfaces of synthetic scenes: patterns between two colors, or photographs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.transforms.v2.functional import to_pil_image

from pe_spatial.common.pictures import read_image

_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
_PHOTOGRAPH_SIZE = 128
# as categories of photographs have typical looks: discs mostly red, boxes blue, triangles green
_HUES = (0.0, 0.62, 0.3)
_TYPICAL = 0.9

Array = NDArray[np.float64]
Pattern = Callable[[Array, Array], Array]  # value in 0…1 at coordinates of the plane


def load_photographs() -> list[NDArray[np.uint8]]:
    """Four photographs that scikit-image ships, reduced to 128 pixels; an empty list where it is not installed."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        return []
    paths = [Path(package.origin).parent / "data" / name for name in _PHOTOGRAPHS]
    photographs = []
    for path in paths:
        if path.exists():
            reduced = to_pil_image(read_image(path, apply_exif=False))
            reduced.thumbnail((2 * _PHOTOGRAPH_SIZE, _PHOTOGRAPH_SIZE))
            photographs.append(np.asarray(reduced))
    return photographs


def _stripes(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * u), 0, 1)


def _checks(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 2.5 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v), 0, 1)


def _dots(u: Array, v: Array) -> Array:
    return np.clip(3.5 - 10 * np.hypot((u % 1) - 0.5, (v % 1) - 0.5), 0, 1)


def _waves(u: Array, v: Array) -> Array:
    return 0.5 + 0.25 * (np.sin(2 * np.pi * (u + 0.4 * np.sin(4 * v))) + np.sin(2 * np.pi * (v + 0.4 * np.sin(5 * u))))


def _plain(u: Array, v: Array) -> Array:
    return np.clip(0.5 + 0.15 * v, 0, 1)


_PATTERNS: tuple[Pattern, ...] = (_stripes, _checks, _dots, _waves, _plain)


@dataclass(frozen=True, eq=False)
class Texture:
    """Colors of a surface: a pattern between two colors, or a photograph."""

    pattern: Pattern
    colors: Array  # [2, 3] in 0…1
    frequency: float  # periods per unit of the surface's coordinates
    phase: Array  # [2]
    photograph: NDArray[np.uint8] | None

    def __call__(self, u: Array, v: Array) -> Array:
        """Colors [..., 3] in 0…1 at surface coordinates."""
        if self.photograph is not None:
            return self._sample(self.photograph, u, v)
        t = self.pattern(self.frequency * u + self.phase[0], self.frequency * v + self.phase[1])[..., None]
        return self.colors[0] + t * (self.colors[1] - self.colors[0])

    def _sample(self, photograph: NDArray[np.uint8], u: Array, v: Array) -> Array:
        # three units across the photograph's height; beyond its edges it is mirrored
        height, width = photograph.shape[:2]
        rows = bounce(v * height / 3 + self.phase[1] * height, 0, height - 1.001)
        columns = bounce(u * height / 3 + self.phase[0] * width, 0, width - 1.001)
        top, left = rows.astype(int), columns.astype(int)
        down, right = (rows - top)[..., None], (columns - left)[..., None]
        upper = photograph[top, left] * (1 - right) + photograph[top, left + 1] * right
        lower = photograph[top + 1, left] * (1 - right) + photograph[top + 1, left + 1] * right
        return (upper * (1 - down) + lower * down) / 255


def room_texture(rng: np.random.Generator, photographs: Sequence[NDArray[np.uint8]]) -> Texture:
    """Muted, so that objects stand out."""
    hue, saturation, value = rng.uniform(), rng.uniform(0, 0.35), rng.uniform(0.55, 1)
    light = _rgb(hue + rng.uniform(-0.12, 0.12), saturation, value)
    return _texture(rng, np.stack([_rgb(hue, saturation, 0.85 * value), light]), photographs, opacity=0.3)


def thing_texture(
    rng: np.random.Generator, label: int, photographs: Sequence[NDArray[np.uint8]], hue: float | None = None
) -> Texture:
    """Vivid, and of a given hue (0 to 1), or mostly of one that is typical of the class."""
    if hue is None:
        hue = rng.normal(_HUES[label], 0.05) if rng.uniform() < _TYPICAL else rng.uniform()
    saturation, value = rng.uniform(0.6, 1), rng.uniform(0.6, 1)
    light = _rgb(hue + rng.uniform(-0.06, 0.06), saturation, value)
    return _texture(rng, np.stack([_rgb(hue, saturation, 0.6 * value), light]), photographs, opacity=0.6)


def _texture(
    rng: np.random.Generator, colors: Array, photographs: Sequence[NDArray[np.uint8]], opacity: float
) -> Texture:
    photograph = photographs[int(rng.integers(len(photographs)))] if photographs and rng.uniform() < 0.4 else None
    if photograph is not None:  # printed on the surface
        photograph = (opacity * photograph + 255 * (1 - opacity) * colors[1]).astype(np.uint8)
    return Texture(
        pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
        colors=colors,
        frequency=rng.uniform(0.8, 2),
        phase=rng.uniform(size=2),
        photograph=photograph,
    )


def _rgb(hue: float, saturation: float, value: float) -> Array:
    distance = np.abs((np.array([0, 4, 2]) / 6 + hue) % 1 * 6 - 3) - 1  # of the hue from each primary color
    return value * (1 - saturation + saturation * np.clip(distance, 0, 1))


def bounce(position: Array | float, low: float, high: float) -> Array:
    """Positions on a line folded back into low…high, as by mirrors at both ends."""
    span = high - low
    return high - np.abs((position - low) % (2 * span) - span)
