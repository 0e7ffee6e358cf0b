"""The frames and masks that a tracker takes: files, and images in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pe_spatial.common.errors import PictureError
from pe_spatial.inference.inputs import Channels, Picture, read_picture
from pe_spatial.tracking.masks import read_prompt

Mask = str | Path | Image.Image | NDArray[Any] | Tensor


def to_frame(frame: Picture, channels: Channels = "rgb") -> Tensor:
    """A frame as uint8 RGB [3, H, W]; see `read_picture`."""
    return read_picture(frame, channels).as_subclass(Tensor)


def to_mask(mask: Mask | None) -> Tensor | None:
    """A mask as integers [H, W], object numbers with 0 = not said; None stays None.

    Args:
        mask: A file or a PIL image (see `read_prompt`), or an array or tensor [H, W]: integers as they are, and bool,
            which is the object 1.

    Raises:
        UnreadableFile: The file is missing or damaged.
        PictureError: Another type or shape.
        AnnotationError: The image cannot hold object numbers.
        ValueError: The image holds colors of no object.
    """
    if mask is None:
        return None
    if isinstance(mask, str | Path | Image.Image):
        return read_prompt(mask)
    values = torch.from_numpy(np.ascontiguousarray(mask)) if isinstance(mask, np.ndarray) else mask
    if not isinstance(values, Tensor) or values.ndim != 2 or values.is_floating_point() or values.is_complex():
        described = f"{type(mask).__name__} {getattr(mask, 'dtype', '')} {list(getattr(mask, 'shape', ()))}"
        raise PictureError(f"{described} is not a mask; pass a path, a PIL image, or integers or bool [H, W]")
    return values.long() if values.dtype == torch.bool else values
