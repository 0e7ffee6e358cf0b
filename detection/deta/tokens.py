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
        cls, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], input_size: tuple[int, int]
    ) -> TokenGrid:
        """The grid of `maps`, for images of `image_sizes` (H, W) in the corner of an input of `input_size`.

        A cell shows the image if the pixel that nearest-neighbor resizing picks for it does.
        """
        shapes = tuple((m.shape[-2], m.shape[-1]) for m in maps)
        H, W = input_size
        counts = [
            [(_cells_inside(columns, W, width), _cells_inside(rows, H, height)) for rows, columns in shapes]
            for height, width in image_sizes
        ]
        return cls(shapes, torch.tensor(counts, dtype=torch.float32, device=maps[0].device))

    @cached_property
    def levels(self) -> Tensor:
        """[S] the level of every token."""
        counts = torch.tensor([rows * columns for rows, columns in self.shapes], device=self.valid.device)
        return torch.arange(len(self.shapes), device=self.valid.device).repeat_interleave(counts)

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
        sizes = self.valid.new_tensor(self.shapes).flip(1)  # [L, 2]
        return self.valid / sizes

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


def _cells_inside(cells: int, whole: int, inside: int) -> int:
    # in float32, as torch resizes masks
    picked = (torch.arange(cells, dtype=torch.float32) * (whole / cells)).floor()
    return int((picked < inside).sum())


def sine_code(numbers: Tensor, channels: int) -> Tensor:
    """Codes [..., N * channels] of numbers [..., N] from 0 to 1: sine and cosine in turn, at falling frequencies."""
    index = torch.arange(channels // 2, device=numbers.device, dtype=torch.float32)
    period = _TEMPERATURE ** (2 * index / channels)
    angles = numbers[..., None] * (2 * math.pi) / period  # [..., N, channels / 2]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)
