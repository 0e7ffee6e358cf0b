"""A baseline that features must beat: the colors of the pixels."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError


@MODELS.register_module()
class RawColor(nn.Module):
    """A backbone without weights: the features of a patch are its pixels.

    Args:
        patch_size: Side of a patch in pixels.
        layers: Takes 0 or -1, the only layer, as sweeps name it.
        frozen: Says what is true of it anyhow: nothing is trained.

    Attributes:
        channels: Of the map, 3 p^2.
        strides: Pixels per cell of the map, p.
        depth: Number of layers, 1.

    Raises:
        OptionError: A layer that does not exist.
    """

    depth = 1

    def __init__(self, patch_size: int = 16, layers: Sequence[int] = (0,), frozen: bool = True) -> None:
        super().__init__()
        if not frozen or any(layer not in (0, -1) for layer in layers) or len(layers) != 1:
            raise OptionError(
                f"RawColor has one layer, 0, and nothing to train; layers is {list(layers)}, frozen {frozen}"
            )
        self.layers = tuple(layers)
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
