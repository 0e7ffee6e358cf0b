"""Pictures of features: principal components as colors, and what is similar to one token.

Letters: T maps, C channels, h and w rows and columns of tokens. Maps are floating-point [C, h, w] on any device;
pictures are uint8 RGB [3, h, w], one pixel per token.
"""

from collections.abc import Sequence

import cv2
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from pe_spatial.visualization.colors import quantile, ramp_colors

_BACKGROUND = 28  # gray level of tokens that are left out


class FeatureColors:
    """Features as colors: half-blurred, projected on their three principal components, read as a color in LCh.

    The blur takes the edge off tokens with outlying features, which would otherwise dominate the components (Perception
    Encoder, appendix B.3.2). The first component is the lightness; the other two are the plane whose angle is the hue
    and whose radius is the chroma, so that similar features have similar colors without a seam.

    Args:
        maps: [C, h, w] each, of any size; they give the basis, in which equal features have equal colors.
        foreground: Color the foreground only, in a basis of its own. It is one side of the first component (split by
            Otsu's rule), the one that has less of the maps' border.

    Raises:
        ValueError: No map, fewer than three channels, or values that are not finite.
    """

    def __init__(self, maps: Sequence[Tensor], foreground: bool = False) -> None:
        blurred = [_blurred(features) for features in maps]
        if not blurred:
            raise ValueError("there is no feature map to compute the colors from")
        tokens = torch.cat([features.flatten(1).T for features in blurred])  # [N, C]
        self._split: tuple[Tensor, Tensor, float] | None = None
        if foreground:
            mean, axes = _principal(tokens, 1)
            axis = axes[:, 0]
            threshold = _otsu((tokens - mean) @ axis)
            border = torch.cat([_border(features).T for features in blurred])
            if ((border - mean) @ axis > threshold).float().mean() > 0.5:
                axis, threshold = -axis, -threshold
            self._split = (mean, axis, threshold)
            tokens = tokens[(tokens - mean) @ axis > threshold]
        self._mean, self._axes = _principal(tokens, 3)
        components = (tokens - self._mean) @ self._axes  # [N, 3]
        self._low, self._high = quantile(components[:, 0], 0.01), quantile(components[:, 0], 0.99)
        self._radius = quantile(components[:, 1:].norm(dim=1), 0.98).clamp_min(1e-12)

    def __call__(self, features: Tensor) -> Tensor:
        """The picture of a map [C, h, w]."""
        blurred = _blurred(features)
        components = (blurred.permute(1, 2, 0) - self._mean) @ self._axes  # [h, w, 3]
        colors = cv2.cvtColor(self._lab(components).numpy(), cv2.COLOR_Lab2RGB)  # [h, w, 3] in 0…1
        picture = torch.from_numpy(255 * colors).round().clamp(0, 255).to(torch.uint8).permute(2, 0, 1)
        if self._split is None:
            return picture
        mean, axis, threshold = self._split
        is_foreground = (blurred.permute(1, 2, 0) - mean) @ axis > threshold  # [h, w]
        return picture.where(is_foreground, torch.tensor(_BACKGROUND, dtype=torch.uint8))

    def _lab(self, components: Tensor) -> Tensor:
        """Principal coordinates [..., 3] to CIE Lab: lightness 20…90, chroma up to about 60."""
        level = (components[..., :1] - self._low) / (self._high - self._low).clamp_min(1e-12)
        chroma = components[..., 1:] / self._radius
        chroma = 60 * chroma / chroma.norm(dim=-1, keepdim=True).clamp_min(1)
        return torch.cat([20 + 70 * level.clamp(0, 1), chroma], dim=-1)


def similarity(features: Tensor, token: tuple[int, int]) -> Tensor:
    """Cosines [h, w] between the token at (row, column) and all tokens of a map [C, h, w].

    Raises:
        ValueError: There is no such token.
    """
    _check(features)
    size = tuple(features.shape[1:])
    if not all(0 <= place < side for place, side in zip(token, size, strict=True)):
        raise ValueError(f"token {token} (row, column) is outside the map of {size} tokens")
    unit = F.normalize(features.detach().float().cpu(), dim=0)
    return torch.einsum("chw,c->hw", unit, unit[:, token[0], token[1]])


def similarity_rgb(cosines: Tensor) -> Tensor:
    """Cosines [h, w] as colors: the smallest is dark blue, 1 is light yellow."""
    low = float(cosines.min())
    return ramp_colors(1 - (1 - cosines) / max(1 - low, 1e-6))


def _check(features: Tensor, channels: int = 1) -> None:
    if features.ndim != 3 or len(features) < channels:
        raise ValueError(f"features of shape {tuple(features.shape)} are not [C, h, w] with C of {channels} or more")
    if not features.isfinite().all():
        raise ValueError(
            "features hold NaN or infinite values; check the weights and the precision of the forward pass"
        )


def _blurred(features: Tensor) -> Tensor:
    _check(features, channels=3)
    maps = features.detach().float().cpu()
    return 0.5 * maps + 0.5 * (TF.gaussian_blur(maps, [3, 3], [1.0, 1.0]) if min(maps.shape[-2:]) > 1 else maps)


def _border(features: Tensor) -> Tensor:
    """The tokens [C, n] at the edge of a map; those in corners count twice."""
    return torch.cat([features[:, 0], features[:, -1], features[:, :, 0], features[:, :, -1]], dim=1)


def _principal(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean [C] and principal axes [C, count] of tokens [N, C]; the largest entry of an axis is positive."""
    mean = tokens.mean(0)
    centered = (tokens - mean).double()
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -count:].flip(1)
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return mean, (axes * signs).float()


def _otsu(values: Tensor) -> float:
    """The threshold that leaves the least variance within its two sides (Otsu 1979)."""
    ordered = values.double().sort().values
    below = torch.arange(1, len(ordered), dtype=torch.float64)
    sums = ordered.cumsum(0)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (means[0] - means[1]) ** 2
    place = int(between.argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)
