"""The convolutions of the heads: each without bias, followed by a LayerNorm over the channels and ReLU."""

import torch.nn.functional as F
from torch import Tensor, nn

from pe_spatial.backbones.pyramid import ConvNorm


class ConvNormReLU(ConvNorm):
    """A 3x3 convolution followed by its own `norm` and ReLU; He initialization (fan out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H, W]."""
        return F.relu(super().forward(x))


class ConvHead(nn.Module):
    """A head on crops that begins with convolutions.

    Args:
        name: Of the convolutions, which a number from 1 on completes.
        in_channels: Channels of a crop.
        conv_channels: Channels of the convolutions.
        num_convs: Their number.
        resolution: Cells along each side of a crop.

    Attributes:
        width: Channels after the convolutions.
    """

    def __init__(self, name: str, in_channels: int, conv_channels: int, num_convs: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self._convs = [f"{name}{i + 1}" for i in range(num_convs)]
        for conv in self._convs:
            self.add_module(conv, ConvNormReLU(in_channels, conv_channels))
            in_channels = conv_channels
        self.width = in_channels

    def convolve(self, x: Tensor) -> Tensor:
        """Run the convolutions on crops [R, in_channels, H, W]."""
        for conv in self._convs:
            x = getattr(self, conv)(x)
        return x
