"""The two blocks of a dense prediction transformer's decoder: reassembling a map at a scale, and fusing two scales."""

from torch import Tensor, nn
from torch.nn import functional as F


class Reassemble(nn.Sequential):
    """A map [B, C, h, w] to [B, channels, scale * h, scale * w].

    Between the two it has C * scale / 4 channels at the finer scales and C at the coarse one, so that all scales cost
    about the same: DINOv2's rule of a decoder that grows with the encoder.

    Args:
        in_channels: C.
        channels: Channels of the result.
        scale: 4, 2, 1 or 0.5; at 0.5 odd sizes are rounded up.
    """

    def __init__(self, in_channels: int, channels: int, scale: float) -> None:
        inner = max(int(in_channels / {4: 8, 2: 4, 1: 2, 0.5: 1}[scale]), 8)
        resample: nn.Module = nn.Identity()
        if scale > 1:
            resample = nn.ConvTranspose2d(inner, inner, int(scale), stride=int(scale))
        elif scale < 1:
            resample = nn.Conv2d(inner, inner, 3, stride=2, padding=1)
        super().__init__(
            nn.Conv2d(in_channels, inner, 1), resample, nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        )


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to the same shape."""
        return x + self.conv2(self.conv1(x.relu()).relu())


class FusionBlock(nn.Module):
    """Adds the map of its scale to what comes from below and passes the sum on at the size of the next scale.

    Args:
        channels: Of all maps.
        skip: Whether it gets a map of its own scale; the lowest block starts from its map alone.
    """

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = ResidualUnit(channels) if skip else None
        self.refine = ResidualUnit(channels)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, own: Tensor | None, size: tuple[int, int]) -> Tensor:
        """[B, C, h, w] and, with a skip, another of that size, to [B, C, *size]."""
        if self.skip is not None and own is not None:
            x = x + self.skip(own)
        # the projection is linear and pointwise, so before or after the upsampling is the same, and before is cheaper
        return F.interpolate(self.project(self.refine(x)), size=size, mode="bilinear", align_corners=False)
