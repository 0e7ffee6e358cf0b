"""Inputs of other sizes than those of a file, and their outputs; nothing here needs torch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def padded(images: Array, size: tuple[int, int]) -> Array:
    """Images [B, 3, h, w] in (H, W), with 0, the color `mean`, at the right and the bottom."""
    missing = [whole - side for whole, side in zip(size, images.shape[-2:], strict=True)]
    return np.pad(images, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1]))) if any(missing) else images


def cut(output: Array, whole: tuple[int, int], size: tuple[int, int]) -> Array:
    """The cells of a map [B, C, h, w] of padded images that show the images; what is no map stays."""
    if output.ndim != 4 or whole == size:
        return output
    height, width = (cells * part // full for cells, part, full in zip(output.shape[-2:], size, whole, strict=True))
    return output[..., :height, :width]


def filled(array: Array, count: int) -> Array:
    """An array of `count` rows: what is missing is its last one again."""
    missing = count - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
