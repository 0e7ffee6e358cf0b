"""The tokens of a pyramid: which show the image and which only pad it, where they lie, and sine codes of places.

Letters: B images, L levels, S tokens of all levels (level by level, row by row), C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TEMPERATURE = 10000.0


class TokenGrid:
    """The geometry of the tokens of a batch of padded images.

    Args:
        shapes: (rows, columns) of the levels.
        valid: [B, L, 2], columns and rows that show the image, float32.

    Attributes:
        levels: [S] the level of every token.
        cells: [S, 2] column and row of every token, float32.
        padding: [B, S] True where a token does not show the image.
        centers: [B, S, 2] x and y of the tokens' centers, 1 at the right and lower edge of the image without padding.
        ratios: [B, L, 2] width and height of the image over those of the input. Multiplying a place in the image by
            them gives the place in the input.
    """

    def __init__(self, shapes: tuple[tuple[int, int], ...], valid: Tensor) -> None:
        self.shapes = shapes
        self.valid = valid
        numbers = enumerate(shapes)
        self.levels = torch.cat([valid.new_full((r * c,), i, dtype=torch.int64) for i, (r, c) in numbers])
        grids = [
            torch.cartesian_prod(torch.arange(rows, device=valid.device), torch.arange(columns, device=valid.device))
            for rows, columns in shapes
        ]
        self.cells = torch.cat(grids).flip(1).float()
        of_token = valid[:, self.levels]  # [B, S, 2]
        self.padding = (self.cells >= of_token).any(dim=-1)
        self.centers = (self.cells + 0.5) / of_token
        self.ratios = valid / sizes_of_levels(shapes, valid).flip(1)

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

    def anchors(self, finest: float) -> Tensor:
        """[B, S, 4] an anchor at every center, as (cx, cy, w, h) relative to the image.

        Args:
            finest: Sides of the anchors on the finest level; every coarser level doubles them.
        """
        side = (finest * 2.0**self.levels).to(self.valid)  # [S]
        return torch.cat((self.centers, side[:, None].expand(-1, 2).expand(self.valid.shape[0], -1, -1)), dim=-1)

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
