"""Pictures of class maps: the image tinted by class, beside a legend."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.common.pictures import pixels_of
from pe_spatial.visualization.class_colors import is_muted
from pe_spatial.visualization.layout import PICTURE_SIZE, beside, enlarge, reduced, thinned
from pe_spatial.visualization.marks import middles, write_numbers

_BORDER, _TINT, _MUTED_TINT = 230, 128, 90  # opacities, of 256


def draw_classes(
    image: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    regions: Tensor | None = None,
    longest: int = PICTURE_SIZE,
    numbered: Collection[int] = (),
) -> Tensor:
    """Tint an image by the class of its pixels, outline the regions, and name the classes at the right.

    The legend lies beside the picture and covers nothing. Background and "other" are tinted less.

    Args:
        image: uint8 [3, H, W].
        labels: Integers [H, W]; what is no index of `classes` is not tinted.
        classes: Names by label.
        colors: [[r, g, b], …] by label.
        regions: Integers [H, W], such as objects, to outline; by default those of one class.
        longest: Larger images are reduced by a whole factor to at most this many pixels on the longer side.
        numbered: Those of the regions that get a number, in their order.

    Returns:
        uint8 [3, H', W'], small images enlarged by a whole factor; W' depends on the size and the names only.
    """
    canvas, factor = enlarge(reduced(image.as_subclass(Tensor), longest))
    shown = thinned(labels, longest).long()
    known = torch.where((shown >= 0) & (shown < len(classes)), shown, len(classes))
    counts = torch.bincount(known.flatten(), minlength=len(classes))[: len(classes)]
    shapes = known if regions is None else thinned(regions, longest)
    borders = _borders(_grown(shapes, factor))
    picture = _tinted(canvas, _grown(known, factor), borders, classes, colors)
    if numbered:
        picture = _numbered(picture, shapes, numbered, known, colors)
    return beside(picture, _legend(picture.shape[1], counts, classes, colors))


def _tinted(
    canvas: Tensor, known: Tensor, borders: Tensor, classes: Sequence[str], colors: Sequence[Sequence[int]]
) -> Tensor:
    """An image [3, H, W] in the colors of its classes [H, W], most of all at the borders; the last one is none."""
    tints = np.array([*colors[: len(classes)], (0, 0, 0)], np.uint16)
    inner = np.array([*(_MUTED_TINT if is_muted(name) else _TINT for name in classes), 0], np.uint16)
    opacity = np.concatenate([inner, np.where(inner, _BORDER, 0).astype(np.uint16)])  # of classes, and of their borders
    kinds = (known + len(inner) * borders).numpy()
    mixed = canvas.permute(1, 2, 0).numpy() * (256 - opacity).take(kinds)[..., None]  # 16 bits hold 255 * 256
    mixed += (np.concatenate([tints, tints]) * opacity[:, None]).take(kinds, axis=0)
    return torch.from_numpy((mixed >> 8).astype(np.uint8)).permute(2, 0, 1)


def _numbered(
    picture: Tensor, regions: Tensor, numbered: Collection[int], labels: Tensor, colors: Sequence[Sequence[int]]
) -> Tensor:
    """A picture [3, H, W] with the numbers of some regions [h, w] in their middle, on plates of the class's color."""
    factor, places = picture.shape[-1] // regions.shape[-1], middles(regions)
    order = [region for region in numbered if region in places]
    marks: dict[tuple[int, int], tuple[str, tuple[int, int, int]]] = {}
    for number, region in enumerate(order, 1):
        x, y = places[region]
        label = int(labels[y, x])
        if label < len(colors):
            red, green, blue = colors[label]
            marks[x * factor + factor // 2, y * factor + factor // 2] = str(number), (red, green, blue)
    canvas = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    write_numbers(canvas, marks)
    return torch.from_numpy(pixels_of(canvas)).permute(2, 0, 1)


def _grown(maps: Tensor, factor: int) -> Tensor:
    """Maps [..., H, W] whose pixels are squares of `factor` pixels."""
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1) if factor > 1 else maps


def _borders(labels: Tensor) -> Tensor:
    """The pixels [H, W] with a neighbor above, below or beside that has another label."""
    border = torch.zeros_like(labels, dtype=torch.bool)
    differs = labels[:-1] != labels[1:]
    border[:-1] |= differs
    border[1:] |= differs
    differs = labels[:, :-1] != labels[:, 1:]
    border[:, :-1] |= differs
    border[:, 1:] |= differs
    return border


def _legend(height: int, counts: Tensor, classes: Sequence[str], colors: Sequence[Sequence[int]]) -> Tensor:
    """Color, name and share of the classes with the largest areas, as many as there is room for."""
    size = min(max(12, height // 30), 64)
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
