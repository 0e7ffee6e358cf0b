"""Baselines that a tracker must beat: the raw colors of the pixels as features, and the first mask repeated."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError
from pe_spatial.tracking.model import VideoTracker


@MODELS.register_module()
class RawColor(nn.Module):
    """A backbone without weights: the features of a patch are its pixels.

    Args:
        patch_size: Side of a patch in pixels.

    Attributes:
        channels: Of the map, 3 p^2.
        strides: Pixels per cell of the map, p.
    """

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.channels = (3 * patch_size**2,)
        self.strides = (patch_size,)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images [B, 3, H, W] to [B, 3 p^2, H/p, W/p].

        Raises:
            OptionError: H or W is not a multiple of the patch size.
        """
        if x.shape[-2] % self.patch_size or x.shape[-1] % self.patch_size:
            raise OptionError(f"{tuple(x.shape[-2:])} (H, W) are not multiples of {self.patch_size}; resize the images")
        return (F.pixel_unshuffle(x, self.patch_size),)

    def layer_of(self, parameter_name: str) -> int:
        """Raise a KeyError, as of every backbone for a parameter that it does not have: this one has none."""
        raise KeyError(parameter_name)


@MODELS.register_module()
class RepeatedMask(VideoTracker):
    """Repeats the masks that were given last on every frame: the lower bound of every score."""

    def __init__(self) -> None:
        super().__init__(backbone=RawColor(16), resizing={"tokens": 1}, recent=0)
        self._given: dict[int, Tensor] = {}

    def follow(self, features: Tensor, input_size: tuple[int, int], frame: Tensor, mask: Tensor | None) -> Tensor:
        """Repeat, with what is new in `mask` on top."""
        if self.labels.frame == 0:
            self._given = {}
        super().follow(features, input_size, frame, mask)  # checks the input
        for number in [] if mask is None else mask.unique().tolist():
            if number:
                self._given[number] = mask == number
        result = torch.zeros(frame.shape[-2:], dtype=torch.uint8)
        for number, shape in self._given.items():
            result[shape] = number
        return result
