"""DETA's pyramid: three maps from the one map of a plain backbone, and coarser ones by convolution."""

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError

_GROUPS = 32


@MODELS.register_module()
class DetaPyramid(nn.Module):
    """Maps of half, once, twice, … the stride of one map, each with the same number of channels.

    The first comes from a transposed convolution, the second is the map itself, the third its maximum over 2x2; a 1x1
    convolution and a GroupNorm bring each to `out_channels`. The next are convolutions of 3x3 and stride 2, the first
    of which reads the third map before its 1x1 convolution. Nothing is nonlinear but the norms.

    Args:
        in_channels: Channels of the backbone's map, an even number.
        stride: Pixels per cell of the backbone's map.
        out_channels: a multiple of 32.
        levels: Number of maps, at least 3.

    Attributes:
        channels: Of the maps.
        strides: Pixels per cell of the maps.
    """

    def __init__(self, in_channels: int, stride: int, out_channels: int = 256, levels: int = 5) -> None:
        super().__init__()
        if levels < 3:
            raise OptionError(f"levels is {levels}; this pyramid has at least 3")
        if in_channels % 2 or out_channels % _GROUPS:
            raise OptionError(
                f"in_channels {in_channels} must be even and out_channels {out_channels} a multiple of {_GROUPS}, the "
                "number of groups of the norms; change them"
            )
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
        self.pool = nn.MaxPool2d(2)
        inputs = [in_channels // 2, in_channels, in_channels]
        convolutions = [nn.Conv2d(channels, out_channels, 1) for channels in inputs]
        for level in range(levels - 3):
            channels = out_channels if level else in_channels
            convolutions.append(nn.Conv2d(channels, out_channels, 3, stride=2, padding=1))
        self.input_proj = nn.ModuleList(nn.Sequential(c, nn.GroupNorm(_GROUPS, out_channels)) for c in convolutions)
        for convolution in convolutions:
            nn.init.xavier_uniform_(convolution.weight)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)
        self.channels = (out_channels,) * levels
        strides = [stride * 2.0**level for level in range(-1, levels - 1)]
        self.strides = tuple(int(s) if s == int(s) else s for s in strides)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Map one [B, C, h, w] to `levels` maps, from 2h x 2w on.

        Raises:
            OptionError: There is more than one map.
        """
        sources = self.pyramid(maps)
        levels = [project(source) for project, source in zip(self.input_proj, sources, strict=False)]
        coarsest = sources[-1]
        for project in self.input_proj[len(sources) :]:
            coarsest = project(coarsest)
            levels.append(coarsest)
        return tuple(levels)

    def pyramid(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The first three maps before they are brought to equal channels."""
        if len(maps) != 1:
            raise OptionError(f"the pyramid needs 1 map, got {len(maps)}; set backbone.layers to one block")
        return self.upsample(maps[0]), maps[0], self.pool(maps[0])
