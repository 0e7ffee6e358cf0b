"""Resizing as Pillow does it, in strips where a picture is large."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pe_spatial.common.threads import side_threads

_LARGE = 2**22  # pixels from which on it is worth the strips
_STRIP = 2**18  # pixels that are in Pillow's own format at a time
_KIND = Image.Resampling.BILINEAR


def resize_picture(image: Tensor, size: Sequence[int]) -> Tensor:
    """A picture at another size, bilinear and antialiased, equal to Pillow's `resize` to the bit.

    Pillow resizes the rows first, and the columns of the result then. So the rows of a large picture are resized in
    strips, on as many threads as PyTorch has, and no copy of the picture is made.

    Args:
        image: uint8 [3, H, W] on the CPU.
        size: (H', W') in pixels.

    Returns:
        uint8 [3, H', W'].
    """
    pixels = image.as_subclass(Tensor).permute(1, 2, 0).numpy()
    height, width = int(size[0]), int(size[1])
    if pixels.shape[0] * pixels.shape[1] > _LARGE and width != pixels.shape[1]:
        pixels = _with_resized_rows(pixels, width)
    whole = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), _KIND)
    return torch.from_numpy(np.array(whole)).permute(2, 0, 1)


def _with_resized_rows(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] at another width [H, width, 3]."""
    made = np.empty((len(pixels), width, 3), np.uint8)
    rows = max(_STRIP // pixels.shape[1], 1)

    def fill(top: int) -> None:
        strip = Image.fromarray(np.ascontiguousarray(pixels[top : top + rows]))
        made[top : top + rows] = np.asarray(strip.resize((width, strip.height), _KIND))

    tops, threads = range(0, len(pixels), rows), torch.get_num_threads()
    if threads == 1:
        for top in tops:
            fill(top)
        return made
    with side_threads(threads) as pool:
        list(pool.map(fill, tops))
    return made
