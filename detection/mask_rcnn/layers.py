"""The convolution of the heads: convolution without bias, LayerNorm over the channels, ReLU."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d


class ConvNormReLU(nn.Conv2d):
    """A 3x3 convolution followed by its own `norm` and ReLU; He initialization (fan out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = LayerNorm2d(out_channels, eps=1e-6)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H, W]."""
        return F.relu(self.norm(super().forward(x)))
