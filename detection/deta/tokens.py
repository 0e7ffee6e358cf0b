"""The tokens of a pyramid: which show the image and which only pad it, where they lie, and sine codes of places.

Letters: B images, L levels, S tokens of all levels (level by level, row by row), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_TEMPERATURE = 10000.0


@dataclass(frozen=True)
class TokenGrid:
    """The geometry of the tokens of a batch of padded images.

    Args:
        shapes: (rows, columns) of the levels.
        valid: [B, L, 2], columns and rows that show the image, float32.
    """

    shapes: tuple[tuple[int, int], ...]
    valid: Tensor

    @classmethod
    def of(
        cls, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]] | Tensor, input_size: tuple[int, int]
    ) -> TokenGrid:
        """The grid of `maps`, for images of `image_sizes` (H, W) in the corner of an input of `input_size`.

        A cell shows the image if the pixel that nearest-neighbor resizing picks for it does.
        """
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        H, W = input_size
        height, width = torch.as_tensor(image_sizes, dtype=torch.float32, device=maps[0].device).unbind(1)  # [B]
        inside = [
            torch.stack((_cells_inside(columns, W, width), _cells_inside(rows, H, height)), 1)
            for rows, columns in shapes
        ]
        return cls(shapes, torch.stack(inside, 1))

    @cached_property
    def levels(self) -> Tensor:
        """[S] the level of every token."""
        numbers = enumerate(self.shapes)
        return torch.cat([self.valid.new_full((r * c,), i, dtype=torch.int64) for i, (r, c) in numbers])

    @cached_property
    def cells(self) -> Tensor:
        """[S, 2] column and row of every token, float32."""
        device = self.valid.device
        grids = [
            torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device)).flip(1)
            for rows, columns in self.shapes
        ]
        return torch.cat(grids).float()

    @cached_property
    def padding(self) -> Tensor:
        """[B, S] True where a token does not show the image."""
        return (self.cells >= self.valid[:, self.levels]).any(dim=-1)

    @cached_property
    def centers(self) -> Tensor:
        """[B, S, 2] x and y of the tokens' centers, 1 at the right and lower edge of the image without padding."""
        return (self.cells + 0.5) / self.valid[:, self.levels]

    @cached_property
    def ratios(self) -> Tensor:
        """[B, L, 2] width and height of the image over those of the input.

        Multiplying a place in the image by them gives the place in the input.
        """
        return self.valid / sizes_of_levels(self.shapes, self.valid).flip(1)

    def anchors(self, finest: float) -> Tensor:
        """[B, S, 4] an anchor at every center, as (cx, cy, w, h) relative to the image.

        Args:
            finest: Sides of the anchors on the finest level; every coarser level doubles them.
        """
        side = (finest * 2.0**self.levels).to(self.valid)  # [S]
        return torch.cat((self.centers, side[:, None].expand(-1, 2).expand(len(self.valid), -1, -1)), dim=-1)

    def positions(self, channels: int) -> Tensor:
        """[B, S, C] sine codes of the centers, rows in the first half of the channels."""
        return sine_code(self.centers.flip(-1), channels // 2)


def sizes_of_levels(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """The shapes [L, 2] in the type and on the device of another tensor; sides of graphs may be symbols."""
    return torch.stack([like.new_full((), side) for shape in shapes for side in shape]).unflatten(0, (-1, 2))


def _cells_inside(cells: int, whole: int, inside: Tensor) -> Tensor:
    """Of cells along a side of `whole` pixels, how many show images of which `inside` [B] pixels are not padding."""
    # in float32, as torch resizes masks
    picked = (torch.arange(cells, dtype=torch.float32, device=inside.device) * (whole / cells)).floor()
    return (picked < inside[:, None]).sum(1).to(inside.dtype)


def sine_code(numbers: Tensor, channels: int) -> Tensor:
    """Codes [..., N * channels] of numbers [..., N] from 0 to 1: sine and cosine in turn, at falling frequencies."""
    index = torch.arange(channels // 2, device=numbers.device, dtype=torch.float32)
    period = _TEMPERATURE ** (2 * index / channels)
    angles = numbers[..., None] * (2 * math.pi) / period  # [..., N, channels / 2]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)
