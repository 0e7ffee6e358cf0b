"""Truth beside prediction, right and wrong told apart by color.

The colors are of Okabe and Ito's palette, which color-blind people tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from pe_spatial.visualization.instances import draw_boxes, overlay_masks
from pe_spatial.visualization.layout import enlarge, row

LONGEST_PANEL = 1280  # pixels of the longer side from which on rows and columns of an image are left out
RIGHT, FALSE, MISSED, UNJUDGED = "right", "false", "missed", "unjudged"
VERDICT_COLORS = {RIGHT: (0, 158, 115), FALSE: (213, 94, 0), MISSED: (240, 228, 66), UNJUDGED: (150, 150, 150)}
_MEANINGS = {RIGHT: "right (true positive)", FALSE: "wrong (false positive)", MISSED: "missed", UNJUDGED: "not judged"}


@dataclass(frozen=True)
class JudgedInstances:
    """Objects or segments and whether they are right.

    Args:
        boxes: [N, 4] xyxy, pixels of the image.
        captions: One for each.
        verdicts: Keys of `VERDICT_COLORS`.
        masks: bool [N, H, W], or None.
        boxed: Whether boxes are drawn, or captions alone.
    """

    boxes: Tensor
    captions: Sequence[str]
    verdicts: Sequence[str]
    masks: Tensor | None = None
    boxed: bool = True


def draw_judged(image: Tensor, truth: JudgedInstances, prediction: JudgedInstances, title: str) -> Tensor:
    """Two panels, the annotation with what was found and what was missed, and the prediction; below them the legend.

    Args:
        image: uint8 [3, H, W].
        truth: Right ones were found.
        prediction: Right ones have an object.
        title: Of the panel of the prediction.

    Returns:
        uint8 [3, H', W']. A small image is enlarged by a whole factor.
    """
    panels = [(f"annotation: {_tally(truth, {RIGHT: 'found', MISSED: 'missed'})}", truth)]
    panels += [(f"{title}: {_tally(prediction, {RIGHT: 'right', FALSE: 'wrong', UNJUDGED: 'not judged'})}", prediction)]
    canvas, factor = enlarge(image.as_subclass(Tensor).cpu())
    drawn = {caption: _draw(canvas, factor, objects) for caption, objects in panels}
    shown = [name for name in VERDICT_COLORS if name in {*truth.verdicts, *prediction.verdicts}]
    return with_legend(row(drawn), [(VERDICT_COLORS[name], _MEANINGS[name]) for name in shown])


def _tally(instances: JudgedInstances, words: dict[str, str]) -> str:
    counted = [(sum(verdict == name for verdict in instances.verdicts), word) for name, word in words.items()]
    return ", ".join(f"{count} {word}" for count, word in counted if count) or "nothing"


def _draw(canvas: Tensor, factor: int, instances: JudgedInstances) -> Tensor:
    colors = [VERDICT_COLORS[verdict] for verdict in instances.verdicts]
    if instances.masks is not None:
        masks = instances.masks.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        canvas = overlay_masks(canvas, masks, colors, opacity=0.3)
    return draw_boxes(canvas, instances.boxes * factor, instances.captions, colors, instances.boxed)


def with_legend(picture: Tensor, entries: Sequence[tuple[tuple[int, int, int], str]]) -> Tensor:
    """A picture uint8 [3, H, W] above a white strip that names colors; long legends take several lines."""
    if not entries:
        return picture
    H, W = picture.shape[-2:]
    size = min(max(13, min(H, W) // 32), 48)
    font = ImageFont.load_default(size=size)
    line, lines, x = 2 * size, [[]], size  # type: int, list[list[tuple[int, tuple[int, int, int], str]]], int
    for color, text in entries:
        width = int(font.getlength(text)) + 4 * size
        if x + width > W and lines[-1]:
            lines.append([])
            x = size
        lines[-1].append((x, color, text))
        x += width
    strip = Image.new("RGB", (W, line * len(lines)), "white")
    draw = ImageDraw.Draw(strip)
    for number, places in enumerate(lines):
        middle = line * number + line // 2
        for left, color, text in places:
            draw.rectangle(
                (left, middle - size // 2, left + size, middle + size // 2), fill=color, outline=(90, 90, 90)
            )
            draw.text((left + 1.6 * size, middle), text, font=font, fill="black", anchor="lm")
    return torch.cat([picture, TF.pil_to_tensor(strip)], dim=1)


def verdict_pixels(image: Tensor, right: Tensor, judged: Tensor) -> Tensor:
    """Pixels that are right, wrong or not judged, as tints of a gray image; what is wrong stands out.

    Args:
        image: uint8 [3, H, W].
        right: bool [H, W].
        judged: bool [H, W].
    """
    gray = image.as_subclass(Tensor).float().mean(0, keepdim=True).expand(3, -1, -1)
    verdicts = torch.where(judged, torch.where(right, 0, 1), 2)  # [H, W]
    table = torch.tensor([VERDICT_COLORS[name] for name in (RIGHT, FALSE, UNJUDGED)], dtype=torch.float32)
    opacity = torch.tensor([0.3, 0.7, 0.5])[verdicts]
    mixed = torch.lerp(gray, table[verdicts].permute(2, 0, 1), opacity)
    picture, factor = mixed.round().to(torch.uint8), enlarge(image)[1]
    return picture.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
