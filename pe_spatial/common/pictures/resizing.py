"""Resizing of pictures for encoders and models, by Pillow. PLM, and the runtime without torch, have other rules."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resize_picture(image: Tensor, size: Sequence[int]) -> Tensor:
    """A picture at another size by Pillow, bilinear and antialiased.

    It is not done in strips or threads: Pillow chooses by the sizes whether rows or columns come first (since version
    13), and rounds in between.

    Args:
        image: uint8 [3, H, W] on the CPU.
        size: (H', W') in pixels.

    Returns:
        uint8 [3, H', W'].
    """
    pixels = np.ascontiguousarray(image.as_subclass(Tensor).permute(1, 2, 0).numpy())
    resized = Image.fromarray(pixels).resize((int(size[1]), int(size[0])), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)
