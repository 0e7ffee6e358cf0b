"""The simple feature pyramid of ViTDet: up to five maps from the one map of a plain backbone."""

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
        out_channels: Channels of the maps.
        levels: Numbers of the maps that are made, from 2 to 6. What the others alone need is neither built nor
            computed; p2 takes the most of all.

    Attributes:
        channels: Channels of the maps.
        strides: Pixels per cell of the maps; all five are 3.5, 7, 14, 28 and 56 for patches of 14.

    Raises:
        OptionError: `in_channels` is not a multiple of 4, or `levels` are not numbers from 2 to 6 in ascending order.
    """

    def __init__(
        self, in_channels: int, stride: int, out_channels: int = 256, levels: Sequence[int] = (2, 3, 4, 5, 6)
    ) -> None:
        super().__init__()
        if in_channels % 4:
            raise OptionError(
                f"in_channels {in_channels} must be a multiple of 4, because p2 has a quarter of it; change the width"
            )
        if not levels or list(levels) != sorted({2, 3, 4, 5, 6}.intersection(levels)):
            raise OptionError(f"levels {list(levels)} must be numbers from 2 to 6 in ascending order")
        half, quarter = in_channels // 2, in_channels // 4

        def finish(channels: int) -> list[nn.Module]:
            return [ConvNorm(channels, out_channels, 1), ConvNorm(out_channels, out_channels, 3)]

        if 2 in levels:
            self.simfp_2 = nn.Sequential(
                nn.ConvTranspose2d(in_channels, half, 2, stride=2),
                _norm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, stride=2),
                *finish(quarter),
            )
        if 3 in levels:
            self.simfp_3 = nn.Sequential(nn.ConvTranspose2d(in_channels, half, 2, stride=2), *finish(half))
        if 4 in levels:
            self.simfp_4 = nn.Sequential(*finish(in_channels))
        if 5 in levels or 6 in levels:  # p6 is every second cell of p5
            self.simfp_5 = nn.Sequential(nn.MaxPool2d(2), *finish(in_channels))
        self.levels = tuple(levels)
        self.channels = (out_channels,) * len(levels)
        scales = [stride * 2.0 ** (level - 4) for level in levels]
        self.strides = tuple(int(s) if s == int(s) else s for s in scales)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map one [B, C, h, w] to those of p2 (4h x 4w), p3, p4 (h x w), p5 and p6 that `levels` names.

        Each has `out_channels` channels.

        Raises:
            OptionError: There is more than one map.
        """
        if len(maps) != 1:
            raise OptionError(f"the pyramid needs 1 map, got {len(maps)}; set backbone.layers to one block")
        made = {level: self.get_submodule(f"simfp_{level}")(maps[0]) for level in {min(n, 5) for n in self.levels}}
        if 6 in self.levels:
            made[6] = F.max_pool2d(made[5], kernel_size=1, stride=2)
        return tuple(made[level] for level in self.levels)
