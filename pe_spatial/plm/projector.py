"""The projector of PLM: from the tokens of the encoder to the width of the language model, pooled."""

import torch.nn.functional as F
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError, require_positive
from pe_spatial.common.linear import Linear


class VisionProjector(nn.Module):
    """Two linear layers with a GELU between them, then average pooling over squares of tokens.

    The official `MLPProjector` (`core/vision_projector/mlp.py` of `perception_models`): pooling comes last.

    Args:
        width: Channels W of the encoder.
        dim: Channels D of the language model.
        pooling: Side of the squares of tokens that become one; 1 does not pool.

    Raises:
        OptionError: A number below 1.
    """

    def __init__(self, width: int, dim: int, pooling: int = 2) -> None:
        super().__init__()
        require_positive(width=width, dim=dim, pooling=pooling)
        self.width, self.dim, self.pooling = width, dim, pooling
        self.linear_1 = Linear(width, dim)
        self.linear_2 = Linear(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Project tokens [B, h * w, W], row by row, of a grid (h, w) to [B, (h // pooling) * (w // pooling), D].

        Raises:
            OptionError: The grid is smaller than a square of the pooling.
        """
        x = self.linear_2(F.gelu(self.linear_1(x)))
        height, width = self.pooled(grid)
        if self.pooling == 1:
            return x
        maps = x.transpose(1, 2).unflatten(2, grid)  # [B, D, h, w]
        return F.adaptive_avg_pool2d(maps, (height, width)).flatten(2).transpose(1, 2)

    def pooled(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(h, w) after pooling.

        Raises:
            OptionError: Nothing would be left.
        """
        height, width = (cells // self.pooling for cells in grid)
        if not height or not width:
            raise OptionError(f"pooling {self.pooling} leaves no token in a grid of {grid[0]} x {grid[1]}; lower it")
        return height, width
