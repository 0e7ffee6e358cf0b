"""A picture as PE-Core sees it, to the digit of the official transform."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pe_spatial.common.pictures import to_image

MEAN = STD = 0.5


def prepare_picture(picture: Image.Image | Tensor, size: int) -> Tensor:
    """Resize a picture to a square, whatever its shape, and normalize it.

    The official order is kept: Pillow's bilinear filter with antialiasing first, then RGB. It matters for Pillow's
    images of other modes alone, such as RGBA.

    Args:
        picture: A PIL image, or uint8 RGB [3, H, W] as `read_image` gives it.
        size: Side of the square in pixels.

    Returns:
        float32 [3, size, size] from -1 to 1.
    """
    image = Image.fromarray(picture.permute(1, 2, 0).numpy()) if isinstance(picture, Tensor) else picture
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(to_image(image)))
    return (pixels.float().div(255) - MEAN) / STD
