"""Windows that slide over an image."""

from collections.abc import Callable, Iterator, Sequence

import torch
from mmengine.utils import to_2tuple
from torch import Tensor

from pe_spatial.common.errors import ConfigError
from pe_spatial.segmentation.logits import Window


def check_window(size: int | Sequence[int], stride: int | Sequence[int] | None = None) -> Window:
    """A window from the values of a config.

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


def window_places(height: int, width: int, window: Window) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window, row by row.

    The last window of a row or column is moved back into the image; an image that is smaller than the window is one
    window of its own size (the rule of mmseg's slide mode).
    """
    for top in _starts(height, window.size[0], window.stride[0]):
        for left in _starts(width, window.size[1], window.stride[1]):
            yield (
                slice(top, min(top + window.size[0], height)),
                slice(left, min(left + window.size[1], width)),
            )


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def slide(scores_of: Callable[[Tensor], Tensor], inputs: Tensor, window: Window) -> Tensor:
    """The mean of the scores of all windows over a pixel.

    Args:
        scores_of: Normalized images [B, 3, h, w] to scores [B, K, h, w].
        inputs: [B, 3, H, W].
        window: In pixels of `inputs`.

    Returns:
        float32 [B, K, H, W].
    """
    batch, _, height, width = inputs.shape
    total: Tensor | None = None
    count = inputs.new_zeros(height, width)
    for rows, columns in window_places(height, width, window):
        scores = scores_of(inputs[:, :, rows, columns]).float()  # sums in bfloat16 would not be means
        if total is None:
            total = scores.new_zeros(batch, scores.shape[1], height, width)
        total[:, :, rows, columns] += scores
        count[rows, columns] += 1
    assert total is not None  # there is always a window
    return total / count


def pad_to_multiple(inputs: Tensor, divisor: int) -> Tensor:
    """Images [B, 3, H, W] with zeros (the color `mean`) at the bottom and the right up to multiples of `divisor`."""
    height, width = inputs.shape[-2:]
    return torch.nn.functional.pad(inputs, (0, -width % divisor, 0, -height % divisor))
