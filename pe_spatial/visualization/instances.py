"""Pictures of objects: masks, boxes and captions. Images are uint8 RGB tensors [3, H, W]; none is changed in place."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from pe_spatial.common.pictures import pixels_of
from pe_spatial.common.windows import Region
from pe_spatial.data import cut_mask, decode_masks, place_columns
from pe_spatial.visualization.class_colors import class_colors
from pe_spatial.visualization.colors import Color, rgb_of
from pe_spatial.visualization.layout import PICTURE_SIZE, enlarge, reduced, reducing_step
from pe_spatial.visualization.marks import Captions, middles, write_numbers

_OPACITY = 0.45


def overlay_masks(
    image: Tensor, masks: Tensor | Sequence[Any], colors: Sequence[Color] | None = None, opacity: float = _OPACITY
) -> Tensor:
    """Tint the pixels of masks and outline them; later masks lie on top.

    Args:
        image: uint8 [3, H, W].
        masks: bool [N, H, W], integer ids [H, W] with 0 = background, or RLEs, of which only the boxes are drawn.
        colors: One color per mask, by number (equal numbers, equal colors) or as (r, g, b); by default each has its
            own.
        opacity: Of the tint.

    Raises:
        ValueError: The masks have another size than the image.
    """
    picture = _picture_of(image)
    _tint_all(picture, masks, colors, opacity)
    return _tensor_of(picture)


def _picture_of(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _tensor_of(picture: Image.Image) -> Tensor:
    return torch.from_numpy(pixels_of(picture)).permute(2, 0, 1)


def _tint_all(
    picture: Image.Image, masks: Tensor | Sequence[Any], colors: Sequence[Color] | None, opacity: float
) -> None:
    """The work of `overlay_masks`, in place."""
    if isinstance(masks, Tensor) and masks.ndim == 2:
        ids = masks.unique()
        ids = ids[ids != 0]
        masks, colors = masks == ids[:, None, None], [int(n) - 1 for n in ids] if colors is None else colors
    given = picture.height, picture.width
    size = masks.shape[-2:] if isinstance(masks, Tensor) else masks[0]["size"] if masks else given
    if tuple(size) != given:
        raise ValueError(f"masks of {tuple(size)} (H, W) on an image of {given}; resize one")
    for number, mask in enumerate(masks):
        _tint(picture, mask, rgb_of(number if colors is None else colors[number]), opacity)


def _tint(picture: Image.Image, mask: Any, color: tuple[int, int, int], opacity: float) -> None:  # noqa: ANN401
    """Tint the pixels of a mask and outline them, in place: Pillow needs no copy of the picture in floating point."""
    (rows, columns), bitmap = _part(mask)
    if not bitmap.size:
        return
    corner = (columns.start, rows.start)
    part = picture.crop((*corner, columns.stop, rows.stop))
    levels = torch.arange(256, dtype=torch.float32)
    added = opacity * torch.tensor(color, dtype=torch.float32)
    table = ((1 - opacity) * levels + added[:, None]).round().int()  # of every value of red, green and blue
    picture.paste(part.point(table.flatten().tolist()), corner, Image.fromarray(bitmap))
    outline = _outline(bitmap, _thickness(picture))
    picture.paste(color, (*corner, columns.stop, rows.stop), Image.fromarray(outline))


def _thickness(picture: Image.Image) -> int:
    """Of lines, in pixels, so that they are seen on the whole picture."""
    return min(max(1, round(min(picture.size) / 240)), 12)  # wider ones would take long


def _part(mask: Any) -> tuple[Region, NDArray[np.bool_]]:  # noqa: ANN401 - a tensor or an RLE
    """Where a mask lies in the image, with a pixel around it, which its outline needs; and the bitmap of that part."""
    if isinstance(mask, Tensor):
        bitmap = mask.bool()
        spans = [_span(bitmap.any(1 - axis), bitmap.shape[axis]) for axis in (0, 1)]
        return (spans[0], spans[1]), bitmap[spans[0], spans[1]].numpy()
    return cut_mask(mask, margin=1)


def _span(present: Tensor, length: int) -> slice:
    """The places that are present, with one more at either end; none if none is."""
    places = present.nonzero().flatten()
    return slice(max(int(places[0]) - 1, 0), min(int(places[-1]) + 2, length)) if len(places) else slice(0, 0)


def _outline(mask: NDArray[np.bool_], thickness: int) -> NDArray[np.bool_]:
    """The pixels of a mask [H, W] near its outside; the edge of the image is no outside."""
    side = 2 * thickness + 1
    core = cv2.erode(np.ascontiguousarray(mask).view(np.uint8), np.ones((side, side), np.uint8))
    return mask & (core == 0)


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    captions: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
    outlined: bool = True,
) -> Tensor:
    """Boxes with captions. Pixels are kept: a small image needs `enlarge` first if captions are to be read.

    Args:
        image: uint8 [3, H, W].
        boxes: [N, 4] xyxy, pixels.
        captions: One per box.
        colors: One color per box, by number or as (r, g, b); by default each has its own.
        outlined: Whether the boxes are drawn, or the captions alone.
    """
    picture = _picture_of(image)
    _write_boxes(picture, boxes, captions, colors, outlined)
    return _tensor_of(picture)


def _write_boxes(
    picture: Image.Image,
    boxes: Tensor,
    captions: Sequence[str] | None,
    colors: Sequence[Color] | None,
    outlined: bool = True,
) -> None:
    """The work of `draw_boxes`, in place."""
    draw, thickness = ImageDraw.Draw(picture), _thickness(picture)
    colored = [rgb_of(number if colors is None else colors[number]) for number in range(len(boxes))]
    corners = boxes.round().int().tolist()
    for (x1, y1, x2, y2), color in zip(corners, colored, strict=True) if outlined else ():
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=thickness)
    if captions is not None:
        plates = Captions(picture)
        rows = list(zip(corners, captions, colored, strict=True))
        for corner, caption, color in reversed(rows):  # what lies on top has the first choice
            plates.write(corner, caption, color)


def draw_objects(image: Tensor, ids: Tensor) -> Tensor:
    """Tint and outline the objects of a map of numbers, and write the number of each into its middle.

    Args:
        image: uint8 [3, H, W].
        ids: Integers [H, W], 0 = background; equal numbers have equal colors in every picture.
    """
    picture = _picture_of(image)
    _tint_all(picture, ids, None, _OPACITY)
    write_numbers(picture, {place: (str(number), number - 1) for number, place in middles(ids).items()})
    return _tensor_of(picture)


def draw_instances(
    image: Tensor,
    instances: Any,
    classes: Sequence[str],
    threshold: float = 0.5,
    palette: Sequence[Sequence[int]] | None = None,
    longest: int = PICTURE_SIZE,
) -> Tensor:
    """Masks, boxes and captions "number class score" of detections or annotations; one color for each class.

    Detections are numbered by their scores, from 1 for the best, annotations by their order. A picture with one
    object has no number.

    Args:
        image: uint8 [3, H, W]. A small one comes back enlarged by a whole factor.
        instances: mmengine InstanceData in the pixels of `image`: `bboxes`, `labels`, and where they exist `scores` and
            `masks`.
        classes: Names by label.
        threshold: Instances with a lower score are left out; it does not matter without scores.
        palette: [[r, g, b], …] by label, where the data set states colors; see `class_colors`.
        longest: A larger image is reduced by a whole factor to at most this many pixels on the longer side.

    Raises:
        ValueError: A label has no name.
    """
    data = InstanceData(
        **{key: instances[key] for key in ("bboxes", "labels", "scores", "masks") if key in instances}
    ).to("cpu")
    if "scores" in data:  # the best last, so that it lies on top
        order = data.scores.float().argsort()
        data = data[order[data.scores[order] >= threshold]]
    labels = data["labels"].tolist()
    if labels and max(labels) >= len(classes):
        raise ValueError(f"label {max(labels)} has no name among {len(classes)} classes; pass those of the dataset")
    step = reducing_step(image.shape[-2:], longest)
    small = reduced(image.cpu(), longest)
    canvas, factor = enlarge(small)
    picture = _picture_of(canvas)
    by_class = class_colors(classes, palette)
    colors = [(red, green, blue) for red, green, blue in (by_class[label] for label in labels)]
    if "masks" in data and labels:
        masks = data.masks
        if step > 1:
            masks = _thinned_masks(masks, step, small.shape[-2:])
        if factor > 1:  # a small image
            masks = decode_masks(masks).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
        _tint_all(picture, masks, colors, _OPACITY)
    captions = [classes[label] for label in labels]
    if len(labels) > 1:
        numbers = range(len(labels), 0, -1) if "scores" in data else range(1, len(labels) + 1)
        captions = [f"{number} {name}" for number, name in zip(numbers, captions, strict=True)]
    if "scores" in data:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, data["scores"].tolist(), strict=True)]
    _write_boxes(picture, data["bboxes"].float() * factor / step, captions, colors)
    return _tensor_of(picture)


def _thinned_masks(masks: Tensor | Sequence[Any], step: int, size: Sequence[int]) -> Tensor | Sequence[Any]:
    """Masks of which only every `step`-th row and column is kept, in a picture of (H, W) then."""
    if isinstance(masks, Tensor):
        return masks[:, ::step, ::step]
    few = []
    for rle in masks:
        region, bitmap = cut_mask(rle)
        top, left = (-(-part.start // step) for part in region)  # the first row and column that are kept
        cut = bitmap[top * step - region[0].start :: step, left * step - region[1].start :: step]
        few.append(place_columns([torch.from_numpy(cut.T)], (top, left), (size[0], size[1])))
    return few
