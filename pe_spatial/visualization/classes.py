"""Pictures of class maps: the image tinted by class, beside a legend."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.visualization.layout import enlarge

_LONGEST = 2048
_BORDER, _TINT = 230, 128  # opacities, of 256


def draw_classes(
    image: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    regions: Tensor | None = None,
    longest: int = _LONGEST,
) -> Tensor:
    """Tint an image by the class of its pixels, outline the regions, and name the classes at the right.

    Args:
        image: uint8 [3, H, W].
        labels: Integers [H, W]; what is no index of `classes` is not tinted.
        classes: Names by label.
        colors: [[r, g, b], …] by label.
        regions: Integers [H, W], such as objects, to outline; by default those of one class.
        longest: Larger images are downsampled to this many pixels on the longer side.

    Returns:
        uint8 [3, H', W'], small images enlarged by a whole factor; W' depends on the size and the names only.
    """
    canvas, factor = enlarge(thinned(image.as_subclass(Tensor), longest))
    shown = thinned(labels, longest).long()
    known = torch.where((shown >= 0) & (shown < len(classes)), shown, len(classes))
    counts = torch.bincount(known.flatten(), minlength=len(classes))[: len(classes)]
    table = torch.tensor([*colors, (0, 0, 0)], dtype=torch.int16)  # [K + 1, 3]
    borders = _borders(known if regions is None else thinned(regions, longest))
    alpha = torch.where(borders, _BORDER, _TINT).where(known < len(classes), 0)  # [h, w]
    tint = table[known].permute(2, 0, 1)  # [3, h, w]
    if factor > 1:
        alpha, tint = (t.repeat_interleave(factor, -2).repeat_interleave(factor, -1) for t in (alpha, tint))
    mixed = canvas + ((tint - canvas) * alpha.int() >> 8)
    return torch.cat([mixed.to(torch.uint8), _legend(mixed.shape[1], counts, classes, colors)], dim=2)


def thinned(maps: Tensor, longest: int = _LONGEST) -> Tensor:
    """Maps [..., H, W] with rows and columns left out as `draw_classes` does it, which then leaves out no more."""
    step = -(-max(maps.shape[-2:]) // longest)
    return maps[..., ::step, ::step]


def _borders(labels: Tensor) -> Tensor:
    """The pixels [H, W] whose lower or right neighbor has another label."""
    border = torch.zeros_like(labels, dtype=torch.bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return border


def _legend(height: int, counts: Tensor, classes: Sequence[str], colors: Sequence[Sequence[int]]) -> Tensor:
    """Color, name and share of the classes with the largest areas, as many as there is room for."""
    size = min(max(12, height // 40), 64)
    font = ImageFont.load_default(size=size)
    line = round(1.6 * size)
    widest = max((font.getlength(f"{name} 100%") for name in classes), default=0.0)
    picture = Image.new("RGB", (int(widest) + 3 * line, height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    order = [k for k in counts.argsort(descending=True, stable=True).tolist() if counts[k]]
    room = height // line - 1
    for row, k in enumerate(order[:room]):
        top = line // 2 + row * line
        draw.rectangle((line // 2, top, line // 2 + size, top + size), fill=tuple(colors[k]))
        percent = 100 * int(counts[k]) / int(counts.sum())
        share = f"{percent:.0f}%" if percent >= 1 else "<1%"
        draw.text((line // 2 + line, top), f"{classes[k]} {share}", font=font, fill=(0, 0, 0))
    if len(order) > room > 0:
        draw.text((line // 2, height - line), f"+ {len(order) - room}", font=font, fill=(0, 0, 0))
    return TF.pil_to_tensor(picture)
