"""Pictures of predictions. Images are uint8 RGB tensors [3, H, W]; nothing is changed in place."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

# below this many pixels on the shorter side, a picture is enlarged before anything is written into it
_LEGIBLE = 480

# a path through the color map at equal steps, dark blue through green and orange to light yellow
_RAMP = (
    (13, 8, 60),
    (36, 61, 130),
    (31, 120, 130),
    (64, 165, 90),
    (170, 190, 60),
    (245, 200, 90),
    (255, 250, 205),
)


# --- colors ----------------------------------------------------------------------------------------------------------
@lru_cache
def _palette(count: int) -> tuple[tuple[int, int, int], ...]:
    colors = [(0, 0, 0)]
    for n in range(1, count):
        hue = (n - 1) * 0.61803398875 % 1  # the golden ratio keeps neighbors apart, however many there are
        value = (1.0, 0.8, 0.62)[(n - 1) // 5 % 3]
        ramp = [min(max(abs((hue + shift) % 1 * 6 - 3) - 1, 0.0), 1.0) for shift in (0, 2 / 3, 1 / 3)]
        red, green, blue = (round(255 * value * (0.15 + 0.85 * level)) for level in ramp)
        colors.append((red, green, blue))
    return tuple(colors)


def palette(count: int = 256) -> Tensor:
    """Distinct colors, uint8 [count, 3]; color 0 is black, for background and for PNG palettes."""
    return torch.tensor(_palette(count), dtype=torch.uint8)


def _color(index: int) -> tuple[int, int, int]:
    return _palette(256)[1 + index % 255]


# --- instances --------------------------------------------------------------------------------------------------------
def overlay_masks(image: Tensor, masks: Tensor, colors: Sequence[int] | None = None, opacity: float = 0.45) -> Tensor:
    """Tint the pixels of masks and outline them; later masks lie on top.

    Args:
        image: uint8 [3, H, W].
        masks: bool [N, H, W], or integer ids [H, W] with 0 = background.
        colors: One color number per mask (equal numbers, equal colors); by default each has its own.
        opacity: Of the tint.

    Raises:
        ValueError: The masks have another size than the image.
    """
    if masks.ndim == 2:
        ids = masks.unique()
        ids = ids[ids != 0]
        masks, colors = masks == ids[:, None, None], [int(n) - 1 for n in ids] if colors is None else colors
    if masks.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"masks of {tuple(masks.shape[-2:])} (H, W) on an image of {tuple(image.shape[-2:])}; resize one"
        )
    canvas = image.float()
    for number, mask in enumerate(masks.bool()):
        color = torch.tensor(_color(number if colors is None else colors[number]), dtype=torch.float32)[:, None]
        canvas[:, mask] = (1 - opacity) * canvas[:, mask] + opacity * color
        canvas[:, _outline(mask)] = color
    return canvas.round().to(torch.uint8)


def _outline(mask: Tensor) -> Tensor:
    """The pixels of a mask [H, W] that touch its outside; those at the edge of the image do not count."""
    padded = F.pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")
    return mask & (F.max_pool2d(1 - padded, 3, stride=1)[0, 0] > 0)


def draw_boxes(
    image: Tensor, boxes: Tensor, captions: Sequence[str] | None = None, colors: Sequence[int] | None = None
) -> Tensor:
    """Boxes with captions. Pixels are kept: a small image needs `enlarge` first if captions are to be read.

    Args:
        image: uint8 [3, H, W].
        boxes: [N, 4] xyxy, pixels.
        captions: One per box.
        colors: One color number per box; by default each has its own.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    draw = ImageDraw.Draw(picture)
    thickness = max(1, round(min(picture.size) / 320))
    font = ImageFont.load_default(size=max(11, min(picture.size) / 36))
    colored = [_color(number if colors is None else colors[number]) for number in range(len(boxes))]
    corners = boxes.round().int().tolist()
    for (x1, y1, x2, y2), color in zip(corners, colored, strict=True):
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=thickness)
    for corner, caption, color in zip(corners, captions or (), colored, strict=captions is not None):
        _write(draw, corner, caption, color, font)
    return TF.pil_to_tensor(picture)


def _write(
    draw: ImageDraw.ImageDraw,
    box: Sequence[int],
    caption: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """A caption on a plate of the box's color: above the box, or inside it where there is no room above."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = max(0, min(box[0], draw.im.size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], draw.im.size[1] - height)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    draw.text((x + 3 - left, y + 3 - top), caption, font=font, fill=(0, 0, 0) if luminance > 130 else (255, 255, 255))


def enlarge(image: Tensor) -> tuple[Tensor, int]:
    """A small image at a whole multiple of its size, so that captions can be read; and that factor (1: unchanged)."""
    H, W = image.shape[-2:]
    factor = -(-_LEGIBLE // min(H, W))
    return (
        TF.resize(image, [H * factor, W * factor], interpolation=InterpolationMode.BICUBIC) if factor > 1 else image
    ), factor


def draw_instances(image: Tensor, instances: Any, classes: Sequence[str], threshold: float = 0.5) -> Tensor:
    """Masks, boxes and "class score" captions of detections or annotations; one color per class.

    Args:
        image: uint8 [3, H, W]. A small one comes back enlarged by a whole factor.
        instances: mmengine InstanceData in the pixels of `image`: `bboxes`, `labels`, and where they exist `scores` and
            `masks`.
        classes: Names by label.
        threshold: Instances with a lower score are left out; it does not matter without scores.

    Raises:
        ValueError: A label has no name.
    """
    data = {key: instances[key].cpu() for key in ("bboxes", "labels", "scores", "masks") if key in instances}
    if "scores" in data:  # the best last, so that it lies on top
        order = data["scores"].float().argsort()
        order = order[data["scores"][order] >= threshold]
        data = {key: value[order] for key, value in data.items()}
    labels = data["labels"].tolist()
    if labels and max(labels) >= len(classes):
        raise ValueError(f"label {max(labels)} has no name among {len(classes)} classes; pass those of the dataset")
    canvas, factor = enlarge(image.cpu())
    if "masks" in data:
        masks = data["masks"].bool().repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        canvas = overlay_masks(canvas, masks, labels)
    scores = data["scores"].tolist() if "scores" in data else [None] * len(labels)
    captions = [
        classes[label] if score is None else f"{classes[label]} {score:.2f}"
        for label, score in zip(labels, scores, strict=True)
    ]
    return draw_boxes(canvas, data["bboxes"].float() * factor, captions, labels)


# --- classes ----------------------------------------------------------------------------------------------------------
def draw_classes(
    image: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    regions: Tensor | None = None,
    opacity: float = 0.5,
    longest: int = 2048,
) -> Tensor:
    """Tint an image by the class of its pixels, outline the regions, and name the classes at the right.

    Args:
        image: uint8 [3, H, W].
        labels: Integers [H, W]; what is no index of `classes` is not tinted.
        classes: Names by label.
        colors: [[r, g, b], …] by label.
        regions: Integers [H, W], such as objects, to outline; by default those of one class.
        opacity: Of the tint.
        longest: Larger images are thinned out to this many pixels on the longer side.

    Returns:
        uint8 [3, H', W'], small images enlarged by a whole factor; W' depends on the size and the names only.
    """
    step = -(-max(image.shape[-2:]) // longest)
    canvas, factor = enlarge(image.as_subclass(Tensor)[:, ::step, ::step])
    shown = labels[::step, ::step].long()
    counts = torch.bincount(shown[(shown >= 0) & (shown < len(classes))], minlength=len(classes))
    known = torch.where((shown >= 0) & (shown < len(classes)), shown, len(classes))
    table = torch.tensor([*colors, (0, 0, 0)], dtype=torch.int16)  # [K + 1, 3]
    share = torch.full((len(classes) + 1,), round(256 * opacity), dtype=torch.int16)
    share[-1] = 0
    borders = _borders(known if regions is None else regions[::step, ::step])
    alpha = torch.where(borders & (known < len(classes)), 230, share[known])  # [h, w]
    tint = table[known].permute(2, 0, 1)  # [3, h, w]
    alpha, tint = (t.repeat_interleave(factor, -2).repeat_interleave(factor, -1) for t in (alpha, tint))
    mixed = canvas + ((tint - canvas) * alpha.int() >> 8)
    return torch.cat([mixed.to(torch.uint8), _legend(mixed.shape[1], counts, classes, colors)], dim=2)


def _borders(labels: Tensor) -> Tensor:
    """The pixels [H, W] whose lower or right neighbor has another label."""
    border = torch.zeros_like(labels, dtype=torch.bool)
    border[:-1] |= labels[:-1] != labels[1:]
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return border


def _legend(height: int, counts: Tensor, classes: Sequence[str], colors: Sequence[Sequence[int]]) -> Tensor:
    """Color, name and share of the classes with the largest areas, as many as there is room for."""
    size = max(12, height // 40)
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


# --- panels -----------------------------------------------------------------------------------------------------------
def caption_strip(caption: str, picture: Tensor) -> Tensor:
    """A picture uint8 [3, H, W] below a light strip with a caption; pictures of one size get strips of one height."""
    H, W = picture.shape[-2:]
    size = max(11, min(H, W) / 24)
    height = round(1.75 * size / 2) * 2
    strip = Image.new("RGB", (W, height), (245, 245, 245))
    ImageDraw.Draw(strip).text(
        (height // 3, height / 2), caption, font=ImageFont.load_default(size), fill=(0, 0, 0), anchor="lm"
    )
    return torch.cat([TF.pil_to_tensor(strip), picture.as_subclass(Tensor)], dim=1)


# --- depth ------------------------------------------------------------------------------------------------------------
def colorize_depth(
    depth: Tensor, near: float | None = None, far: float | None = None, scale_bar: bool = False
) -> Tensor:
    """Depth as colors, light is near; pixels without a measurement (0) are black.

    Args:
        depth: [H, W] or [1, H, W], meters.
        near, far: Meters at the ends of the color scale, by default the 2 % and 98 % quantiles of the measurements.
            Pictures to be compared need the same.
        scale_bar: Append a bar at the right with its ends in meters; a small picture is enlarged by a whole factor.

    Returns:
        uint8 RGB [3, H, W], wider with the bar.
    """
    meters = depth.detach().float().cpu().reshape(depth.shape[-2:])
    measured = meters[meters > 0]
    if len(measured) == 0:
        measured = torch.ones(1)
    near = float(quantile(measured, 0.02)) if near is None else near
    far = float(quantile(measured, 0.98)) if far is None else far
    picture = _depth_colors(meters, near, far)
    if not scale_bar:
        return picture
    factor = enlarge(picture)[1]
    picture = picture.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    H = picture.shape[1]
    bar = _depth_colors(torch.linspace(near, far, H)[:, None].expand(H, max(12, H // 24)), near, far)
    canvas = torch.full((3, H, max(72, H // 6)), 255, dtype=torch.uint8)
    canvas[:, :, 4 : 4 + bar.shape[2]] = bar
    return torch.cat([picture, _label_ends(canvas, 8 + bar.shape[2], near, far)], dim=2)


def _depth_colors(meters: Tensor, near: float, far: float) -> Tensor:
    colors = ramp_colors(1 - (meters - near) / max(far - near, 1e-6))
    return colors * (meters > 0).to(torch.uint8)


def ramp_colors(levels: Tensor) -> Tensor:
    """Numbers [H, W] as colors uint8 [3, H, W], from dark blue at 0 and below to light yellow at 1 and above."""
    stops = torch.tensor(_RAMP, dtype=torch.float32)  # [S, 3]
    place = levels.clamp(0, 1) * (len(stops) - 1)
    lower = place.floor().long().clamp(max=len(stops) - 2)
    color = torch.lerp(stops[lower], stops[lower + 1], (place - lower)[..., None])  # [H, W, 3]
    return color.round().to(torch.uint8).permute(2, 0, 1)


def _label_ends(strip: Tensor, x: int, near: float, far: float) -> Tensor:
    picture = Image.fromarray(strip.permute(1, 2, 0).contiguous().numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, picture.height / 40))
    draw.text((x, 2), f"{near:.1f} m", font=font, fill=(0, 0, 0), anchor="lt")
    draw.text((x, picture.height - 3), f"{far:.1f} m", font=font, fill=(0, 0, 0), anchor="lb")
    return TF.pil_to_tensor(picture)


def quantile(values: Tensor, fraction: float) -> Tensor:
    """The number below which a fraction of the values [N] lies; torch.quantile refuses more than 16 million."""
    return values.sort().values[round(fraction * (len(values) - 1))]
