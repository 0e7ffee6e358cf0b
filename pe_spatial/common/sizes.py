"""Sizes that images are resized to, as whole numbers; nothing here needs torch."""

from typing import Literal

Rounding = Literal["half_up", "floor_long"]


def fitted_size(image: tuple[int, int], size: int, max_size: int | None, rounding: Rounding) -> tuple[int, int]:
    """The size (H, W) of an image whose shorter side becomes `size`, or less where the longer would pass `max_size`.

    `half_up` is the rule of Detectron2's `ResizeShortestEdge.get_output_shape`, and of mmcv's `rescale_size`;
    `floor_long` that of `get_size_with_aspect_ratio` in DETA's `datasets/transforms.py`. The order of the operations is
    theirs too: in floating point another one decides some ties otherwise.

    Args:
        image: (H, W) before, at least one pixel each.
        size: Of the shorter side in pixels.
        max_size: Of the longer side in pixels; None sets no bound.
        rounding: `half_up` rounds both sides to the nearest pixel. `floor_long` rounds the shorter one and derives the
            longer one from it, rounded down; for thin images that may be more than `max_size`.

    Returns:
        At least one pixel each.
    """
    short, long = min(image), max(image)
    if rounding == "half_up":
        new_short, new_long = float(size), size / short * long
        if max_size is not None and new_long > max_size:
            factor = max_size / new_long
            new_short, new_long = new_short * factor, new_long * factor
        fitted = max(int(new_short + 0.5), 1), max(int(new_long + 0.5), 1)
    else:
        if max_size is not None and long / short * size > max_size:
            size = max(round(max_size * short / long), 1)
        fitted = size, int(size * long / short)
    return fitted if image[0] <= image[1] else fitted[::-1]


THINNEST = 8  # times the shorter side; a picture of one line would not fit into any memory


def patched_size(image: tuple[int, int], side: int, resize: str, unit: int) -> tuple[int, int]:
    """The size (H, W) in whole patches that an encoder sees an image in.

    Args:
        image: (H, W) before.
        side: In pixels; of which sides, `resize` says.
        resize: `shorter`, where the longer one is at most 8 times that; `longer`; or `square`, both.
        unit: Side of a patch in pixels.
    """
    if resize == "square":
        wanted = (float(side),) * 2
    else:
        shorter, longer = side / min(image), side / max(image)
        scale = min(shorter, THINNEST * longer) if resize == "shorter" else longer
        wanted = (image[0] * scale, image[1] * scale)
    height, width = (max(int(length / unit + 0.5), 1) * unit for length in wanted)
    return height, width
