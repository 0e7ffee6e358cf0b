"""The simple feature pyramid of ViTDet: five maps from the one map of a plain backbone."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from pe_spatial.common.errors import OptionError

_norm = partial(LayerNorm2d, eps=1e-6)


class ConvNorm(nn.Conv2d):
    """A convolution without bias that keeps the size, and a LayerNorm over channels under the name `norm`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, H, W]."""
        return self.norm(super().forward(x))


@MODELS.register_module()
class SimpleFeaturePyramid(nn.Module):
    """Maps of 1/4, 1/2, 1, 2 and 4 times the stride of one map (Li et al., 2022, arXiv:2203.16527).

    p2 and p3 come from transposed convolutions, p4 from the map itself, p5 from max pooling; each passes a 1x1 and a
    3x3 convolution. p6 is every second cell of p5. Parameter names are those of Detectron2's `SimpleFeaturePyramid`.

    Args:
        in_channels: Channels of the backbone's map; a multiple of 4.
        stride: Pixels per cell of the backbone's map.
        out_channels: Channels of the five maps.

    Attributes:
        channels: Channels of the five maps.
        strides: Pixels per cell of the five maps; 3.5, 7, 14, 28 and 56 for patches of 14.

    Raises:
        OptionError: `in_channels` is not a multiple of 4.
    """

    def __init__(self, in_channels: int, stride: int, out_channels: int = 256) -> None:
        super().__init__()
        if in_channels % 4:
            raise OptionError(
                f"in_channels {in_channels} is not a multiple of 4 and p2 has a quarter of it; change the width"
            )
        half, quarter = in_channels // 2, in_channels // 4

        def finish(channels: int) -> list[nn.Module]:
            return [ConvNorm(channels, out_channels, 1), ConvNorm(out_channels, out_channels, 3)]

        self.simfp_2 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, half, 2, stride=2),
            _norm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
            *finish(quarter),
        )
        self.simfp_3 = nn.Sequential(nn.ConvTranspose2d(in_channels, half, 2, stride=2), *finish(half))
        self.simfp_4 = nn.Sequential(*finish(in_channels))
        self.simfp_5 = nn.Sequential(nn.MaxPool2d(2), *finish(in_channels))
        self.channels = (out_channels,) * 5
        scales = [stride * scale for scale in (0.25, 0.5, 1, 2, 4)]
        self.strides = tuple(int(s) if s == int(s) else s for s in scales)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map one [B, C, h, w] to p2 (4h x 4w), p3, p4 (h x w), p5 and p6, each with `out_channels` channels.

        Raises:
            OptionError: There is more than one map.
        """
        if len(maps) != 1:
            raise OptionError(f"the pyramid takes 1 map, got {len(maps)}; name one block in the backbone's layers")
        levels = [stage(maps[0]) for stage in (self.simfp_2, self.simfp_3, self.simfp_4, self.simfp_5)]
        return (*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2))
