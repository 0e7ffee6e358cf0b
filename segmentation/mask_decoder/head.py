"""The head: from queries and patch tokens to masks and classes."""

from math import log2

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from pe_spatial.common.linear import Linear
from pe_spatial.segmentation.mask_decoder.criterion import Masks


class Upscale(nn.Sequential):
    """A map [B, C, h, w] at twice its resolution: transposed convolution, GELU, depthwise convolution, norm."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            LayerNorm2d(width, eps=1e-6),
        )


class MaskHead(nn.Module):
    """Classes of queries, and masks as dot products of queries with the upscaled map of patches.

    PE-Spatial ends without a norm, so the head brings the one that EoMT takes from its encoder. It reads the tokens
    between blocks with the same weights as after the last.

    Args:
        width: Channels of a token, C.
        num_classes: K.
        patch_size: The masks have a quarter of the image's resolution for patches of 16, half of the patches' for 14.
    """

    def __init__(self, width: int, num_classes: int, patch_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classify = Linear(width, num_classes + 1)
        self.embed = nn.Sequential(
            Linear(width, width), nn.GELU(), Linear(width, width), nn.GELU(), Linear(width, width)
        )
        self.upscale = nn.Sequential(*[Upscale(width) for _ in range(max(1, int(log2(patch_size)) - 2))])

    def forward(self, queries: Tensor, patches: Tensor, grid: tuple[int, int]) -> Masks:
        """Read the tokens.

        Args:
            queries: [B, Q, C].
            patches: [B, h * w, C], row by row.
            grid: (h, w).
        """
        queries = self.norm(queries)
        pixels = self.upscale(self.norm(patches).transpose(1, 2).unflatten(2, grid))  # [B, C, h', w']
        logits = (self.embed(queries) @ pixels.flatten(2)).unflatten(2, pixels.shape[-2:])  # [B, Q, h', w']
        return Masks(logits, self.classify(queries))
