"""What is written into a picture: captions that make room for each other, and numbers in the middle of objects."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pe_spatial.visualization.colors import Color, rgb_of
from pe_spatial.visualization.layout import reducing_step

_CELL = 8  # pixels: where captions lie is noted by squares of this side, so that thousands take no longer each
_MIDDLES = 256  # pixels of the longer side of the map in which the middles of regions are looked for

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever can be read on a color."""
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luminance > 130 else (255, 255, 255)


def font_for(size: tuple[int, int]) -> Font:
    """The font of captions in a picture of (width, height)."""
    return ImageFont.load_default(size=max(12, min(size) / 32))


class Captions:
    """Writes captions beside boxes, where there is no other caption yet.

    Args:
        picture: Is written into.
    """

    def __init__(self, picture: Image.Image) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._size = picture.size
        self._font = font_for(picture.size)
        self._taken = np.zeros([side // _CELL + 1 for side in reversed(picture.size)], bool)

    def write(self, box: Sequence[int], caption: str, color: Color) -> None:
        """Write a caption on a plate of a color: above the box, else inside it, below it, or in its lower corner.

        Args:
            box: xyxy, pixels.
            caption: One line.
            color: Of the plate.
        """
        rgb = rgb_of(color)
        left, top, right, bottom = (int(side) for side in self._draw.textbbox((0, 0), caption, font=self._font))
        width, height = right - left + 8, bottom - top + 6
        x1, y1, x2, y2 = (int(side) for side in box)
        corners = ((x1, y1 - height), (x1, y1), (x1, y2), (x2 - width, y2 - height), (x2 - width, y1 - height))
        placed = [self._inside(corner, width, height) for corner in corners if corner[1] >= 0] or [
            self._inside((x1, y1), width, height)
        ]
        x, y = next((corner for corner in placed if not self._cells(corner, width, height).any()), placed[0])
        self._cells((x, y), width, height)[...] = True
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=rgb)
        self._draw.text((x + 4 - left, y + 3 - top), caption, font=self._font, fill=ink_on(rgb))

    def _inside(self, corner: tuple[int, int], width: int, height: int) -> tuple[int, int]:
        return max(0, min(corner[0], self._size[0] - width)), max(0, min(corner[1], self._size[1] - height))

    def _cells(self, corner: tuple[int, int], width: int, height: int) -> np.ndarray:
        x, y = corner
        return self._taken[y // _CELL : (y + height - 1) // _CELL + 1, x // _CELL : (x + width - 1) // _CELL + 1]


def middles(ids: Tensor) -> dict[int, tuple[int, int]]:
    """A pixel (x, y) near the middle of every region of a map of numbers [H, W], and inside it; 0 is no region."""
    step = reducing_step(ids.shape, _MIDDLES)
    thin = ids[step // 2 :: step, step // 2 :: step].long()
    rows, columns = thin.nonzero(as_tuple=True)
    names, number = thin[rows, columns].unique(return_inverse=True)
    places = torch.stack([columns, rows], dim=1).float()  # [N, 2]
    counts = torch.bincount(number, minlength=len(names))
    means = torch.zeros(len(names), 2).index_add_(0, number, places) / counts[:, None]
    distance = (places - means[number]).square().sum(1)
    near = distance.argsort(stable=True)
    near = near[number[near].argsort(stable=True)]  # by region, the nearest first
    firsts = counts.cumsum(0) - counts
    found = places[near[firsts]].long() * step + step // 2
    return dict(zip(names.tolist(), map(tuple, found.tolist()), strict=True))


def write_numbers(picture: Image.Image, numbers: Mapping[tuple[int, int], tuple[str, Color]]) -> None:
    """Write texts on plates of a color, each in the middle of a place.

    Args:
        picture: Is written into.
        numbers: (text, color) by place (x, y).
    """
    draw, font = ImageDraw.Draw(picture), font_for(picture.size)
    for (x, y), (text, color) in numbers.items():
        rgb = rgb_of(color)
        left, top, right, bottom = draw.textbbox((x, y), text, font=font, anchor="mm")
        radius = (bottom - top) / 2
        draw.rounded_rectangle(
            (left - 5, top - 4, right + 4, bottom + 3), radius, fill=rgb, outline=ink_on(rgb), width=1
        )
        draw.text((x, y), text, font=font, fill=ink_on(rgb), anchor="mm")
