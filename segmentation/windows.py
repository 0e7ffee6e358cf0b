"""Windows that slide over an image."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from mmengine.utils import to_2tuple
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.common.windows import Region, blend, regions, strided_starts


class Window(NamedTuple):
    """A window that slides over an image; both (H, W) in pixels of the model's input."""

    size: tuple[int, int]
    stride: tuple[int, int]


def check_window(size: int | Sequence[int], stride: int | Sequence[int] | None = None) -> Window:
    """Make a window from the values of a config.

    Args:
        size: (H, W) in pixels, or the side of a square.
        stride: As `size`; None is two thirds of the window, rounded down.

    Raises:
        ConfigError: Not two sides each, or a stride that would leave gaps.
    """
    sides = to_2tuple(size)
    steps = [2 * side // 3 for side in sides] if stride is None else to_2tuple(stride)
    if len(sides) != 2 or len(steps) != 2 or min(*sides, *steps) < 1:
        raise ConfigError(f"window size {list(sides)} and stride {list(steps)} must each be (H, W) in pixels")
    if steps[0] > sides[0] or steps[1] > sides[1]:
        raise ConfigError(f"stride {list(steps)} exceeds the window {list(sides)} and would leave gaps; lower it")
    return Window((int(sides[0]), int(sides[1])), (int(steps[0]), int(steps[1])))


def window_places(height: int, width: int, window: Window) -> list[Region]:
    """Rows and columns of every window, row by row; an image below the window's size is one window of its own size."""
    size = min(window.size[0], height), min(window.size[1], width)
    starts = [strided_starts(*each) for each in zip((height, width), size, window.stride, strict=True)]
    return regions(starts[0], starts[1], size)


def slide(scores_of: Callable[[Tensor], Tensor], inputs: Tensor, window: Window) -> Tensor:
    """Average the scores of all windows over a pixel.

    Args:
        scores_of: Normalized images [B, 3, h, w] to scores [B, K, h, w].
        inputs: [B, 3, H, W].
        window: In pixels of `inputs`.

    Returns:
        float32 [B, K, H, W].
    """
    height, width = inputs.shape[-2:]
    # sums in bfloat16 would not be means
    parts = (
        ((rows, columns), scores_of(inputs[:, :, rows, columns]).float())
        for rows, columns in window_places(height, width, window)
    )
    return blend(parts, 1, (height, width))


def pad_to_multiple(inputs: Tensor, divisor: int) -> Tensor:
    """Pad images [B, 3, H, W] with zeros (the color `mean`), bottom and right, to multiples of `divisor`."""
    height, width = inputs.shape[-2:]
    return torch.nn.functional.pad(inputs, (0, -width % divisor, 0, -height % divisor))
