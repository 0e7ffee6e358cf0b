"""Pictures of depth: color maps, and their legend with round numbers, the unit, and whether the values are metric."""

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pe_spatial.visualization.colors import quantile, ramp_colors
from pe_spatial.visualization.layout import PICTURE_SIZE, beside, enlarge, reduce_thin, thinned

UNMEASURED = 150  # gray level of pixels whose error is not known
_STRIP = 2**18  # pixels that are colored at a time
_SEEN = 1024  # rows and columns whose measurements decide on the ends of the colors
LEGEND_HEIGHT = 240  # at least; a lower map stands above white


def colorize_depth(depth: Tensor, near: float | None = None, far: float | None = None) -> Tensor:
    """Depth as colors, light is near; pixels without a measurement (0) are black.

    Args:
        depth: [H, W] or [1, H, W], meters.
        near: Meters at the near end of the color scale, by default that of `color_range`. Pictures to be compared need
            the same scale.
        far: Meters at the far end.

    Returns:
        uint8 RGB [3, H, W].
    """
    meters = depth.detach().float().cpu().reshape(depth.shape[-2:])
    near, far = color_range(meters, near, far)
    colors = torch.empty(*meters.shape, 3, dtype=torch.uint8)
    rows = max(_STRIP // max(meters.shape[1], 1), 1)
    for part, strip in zip(colors.split(rows), meters.split(rows), strict=True):
        levels = (strip - near).div_(max(far - near, 1e-6)).neg_().add_(1)
        part[:] = ramp_colors(levels).permute(1, 2, 0)
        part[strip <= 0] = 0
    return colors.permute(2, 0, 1)


def color_range(depth: Tensor, near: float | None = None, far: float | None = None) -> tuple[float, float]:
    """The ends of the color scale: the 2 % and 98 % quantiles of the measurements, in at most a million places.

    Args:
        depth: [H, W] or [1, H, W], 0 = no measurement.
        near: The near end, where it is given.
        far: The far end.
    """
    if near is not None and far is not None:
        return near, far
    seen = thinned(depth.detach(), _SEEN).float().cpu()
    measured = seen[seen > 0]
    if len(measured) == 0:
        measured = torch.ones(1)
    near = float(quantile(measured, 0.02)) if near is None else near
    return near, max(float(quantile(measured, 0.98)), near * (1 + 1e-3)) if far is None else far


def depth_picture(
    depth: Tensor,
    near: float | None = None,
    far: float | None = None,
    is_metric: bool = True,
    longest: int = PICTURE_SIZE,
) -> Tensor:
    """Depth as colors beside its legend.

    Args:
        depth: [1, H, W], 0 = no measurement.
        near: Near end of the color scale, in the unit of `depth`; by default that of `color_range`.
        far: Far end.
        is_metric: The unit is meters; otherwise it is the model's own.
        longest: Larger maps are reduced by a whole factor to at most this many pixels on the longer side.

    Returns:
        uint8 RGB [3, H', W']. A small map is enlarged by a whole factor.
    """
    near, far = color_range(depth, near, far)
    colors = colorize_depth(thinned(depth, longest), near, far)
    factor = enlarge(colors)[1]
    if factor > 1:
        colors = colors.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    colors = reduce_thin(colors, LEGEND_HEIGHT)
    return beside(colors, _legend(max(colors.shape[-2], LEGEND_HEIGHT), near, far, is_metric))


def error_picture(error: Tensor, judged: Tensor, most: float) -> Tensor:
    """Relative errors of depth as colors beside their legend: light is right; pixels that are not judged are gray.

    Args:
        error: [H, W], |predicted - measured| / measured.
        judged: bool [H, W].
        most: The error from which on the color is the darkest.

    Returns:
        uint8 RGB [3, H', W'], of the size of `depth_picture` of a map of that size.
    """
    colors = torch.where(judged, ramp_colors(1 - error / most), UNMEASURED)
    factor = enlarge(colors)[1]
    colors = reduce_thin(colors.repeat_interleave(factor, -2).repeat_interleave(factor, -1), LEGEND_HEIGHT)
    bar = ramp_colors(torch.linspace(1, 0, max(colors.shape[-2], LEGEND_HEIGHT))[:, None])  # [3, height, 1]
    return beside(colors, _strip(bar, 0.0, 100 * most, ("relative error", f"in %, dark: {100 * most:g} or more")))


def _legend(height: int, near: float, far: float, is_metric: bool) -> Tensor:
    """White strip [3, height, W] with the title, the bar (near above) and its ticks."""
    title = ("metric depth", "unit: m") if is_metric else ("relative depth", "no unit")
    bar = colorize_depth(torch.linspace(max(near, 1e-6), far, height)[:, None], near, far)
    return _strip(bar, near, far, title)


def _strip(bar: Tensor, near: float, far: float, title: tuple[str, str]) -> Tensor:
    """White strip [3, height, W] with the title, a bar of colors [3, height, 1] from `near` to `far`, and its ticks."""
    height = bar.shape[-2]
    size = min(max(11, height // 30), 64)
    font = ImageFont.load_default(size=size)
    width = int(max(font.getlength(line) for line in title)) + 2 * size // 2 + 4
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(title):
        draw.text((size // 2, size // 2 + int(1.3 * size) * number), line, font=font, fill="black")
    top, bottom = 4 * size, height - size
    canvas.paste(F.to_pil_image(bar.expand(-1, -1, 2 * size)).resize((2 * size, bottom - top)), (size // 2, top))
    for value in round_values(near, far):
        y = top + (bottom - 1 - top) * (value - near) / max(far - near, 1e-12)
        right = size // 2 + 2 * size
        draw.line((right, y, right + size // 3, y), fill="black", width=max(1, size // 12))
        draw.text((right + size // 2 + 2, y), f"{value:.6g}", font=font, fill="black", anchor="lm")
    return F.pil_to_tensor(canvas)


def round_values(near: float, far: float, count: int = 8) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten in the range, at least one."""
    span = max(far - near, 1e-12)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= count)
    first = math.ceil(near / step - 1e-9)
    values = [step * number for number in range(first, math.floor(far / step + 1e-9) + 1)]
    return values or [near]
