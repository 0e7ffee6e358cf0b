"""Windows that slide over an image."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from segmentation.logits import Window


def check_window(size: tuple[int, ...], stride: tuple[int, ...]) -> Window:
    """A window from the values of a config.

    Raises:
        ValueError: Not two sides each, or a stride that would leave gaps.
    """
    if len(size) != 2 or len(stride) != 2 or min(*size, *stride) < 1:
        raise ValueError(f"window size {list(size)} and stride {list(stride)} must each be (H, W) in pixels")
    if stride[0] > size[0] or stride[1] > size[1]:
        raise ValueError(f"stride {list(stride)} exceeds the window {list(size)} and would leave gaps; lower it")
    return Window((int(size[0]), int(size[1])), (int(stride[0]), int(stride[1])))


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
        scores_of: Normalised images [B, 3, h, w] to scores [B, K, h, w].
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
    """Images [B, 3, H, W] with zeros (the colour `mean`) at the bottom and the right up to multiples of `divisor`."""
    height, width = inputs.shape[-2:]
    return torch.nn.functional.pad(inputs, (0, -width % divisor, 0, -height % divisor))
