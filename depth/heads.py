"""Heads: the maps of a backbone to depth at the head's own resolution.

A head is built with `in_channels`, the channels of the backbone's maps, and keeps `depth_range`; `forward` takes the
maps [B, C_i, h, w] and returns depth [B, 1, h', w'] inside the range.
"""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.depth.dpt import FusionBlock, Reassemble
from pe_spatial.depth.ranges import checked_range


@MODELS.register_module()
class LinearBinsHead(nn.Module):
    """Batch norm and a 1x1 convolution to uniform bins, the probe of DINOv2 and DINOv3 without a class token.

    Depth is the mean of the bin centers, weighted by relu(logit) + 0.1: at the start close to the middle of the range.

    Args:
        in_channels: Channels of the maps; several maps of one size are concatenated.
        depth_range: (least, greatest) depth, the centers of the first and the last bin.
        bins: Number of bins.
    """

    def __init__(self, in_channels: Sequence[int], depth_range: Sequence[float], bins: int = 256) -> None:
        super().__init__()
        if bins < 2:
            raise OptionError(f"bins {bins} must be at least 2, the two ends of the range")
        self.depth_range = checked_range(depth_range)
        self.norm = nn.BatchNorm2d(sum(in_channels))
        self.linear = nn.Conv2d(sum(in_channels), bins, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.get_parameter("bias"))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Depth at the resolution of the maps."""
        logits = self.linear(self.norm(torch.cat(list(maps), dim=1)))  # [B, bins, h, w]
        weights = logits.float().relu() + 0.1
        centers = torch.linspace(*self.depth_range, logits.shape[1], device=logits.device)[:, None, None]
        # a product of matrices would be done in bfloat16 under autocast, in which 8 m and 8.03 m are one
        return (weights * centers).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


@MODELS.register_module()
class DPTDepthHead(nn.Module):
    """Dense prediction transformer decoder (Ranftl et al. 2021) over one map or four of one size.

    A single map feeds all four resolutions, which is the single-layer protocol of the PE paper. Depth is
    least + (greatest - least) * sigmoid at 16 cells per cell of the maps.

    Args:
        in_channels: Channels of the maps, one entry or four, shallow to deep.
        depth_range: (least, greatest) depth.
        channels: Width of the decoder.
    """

    def __init__(self, in_channels: Sequence[int], depth_range: Sequence[float], channels: int = 256) -> None:
        super().__init__()
        if len(in_channels) not in (1, 4):
            raise OptionError(f"{len(in_channels)} maps, but DPT needs one or four; set backbone.layers")
        self.depth_range = checked_range(depth_range)
        inputs = tuple(in_channels) * (4 // len(in_channels))
        self.reassemble = nn.ModuleList(
            Reassemble(width, channels, scale) for width, scale in zip(inputs, (4, 2, 1, 0.5), strict=True)
        )
        self.fusion = nn.ModuleList(FusionBlock(channels, skip=level < 3) for level in range(4))
        self.project = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.output = nn.Sequential(
            nn.Conv2d(channels // 2, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, 1, 1)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Depth at 16 times the resolution of the maps."""
        levels = maps if len(maps) == 4 else [maps[0]] * 4
        pyramid = [module(level) for module, level in zip(self.reassemble, levels, strict=True)]
        x = self.fusion[3](pyramid[3], None, size=pyramid[2].shape[-2:])
        for level in (2, 1):
            x = self.fusion[level](x, pyramid[level], size=pyramid[level - 1].shape[-2:])
        height, width = pyramid[0].shape[-2:]
        x = self.fusion[0](x, pyramid[0], size=(2 * height, 2 * width))
        x = F.interpolate(self.project(x), scale_factor=2, mode="bilinear", align_corners=False)
        least, greatest = self.depth_range
        return least + (greatest - least) * self.output(x).float().sigmoid()
