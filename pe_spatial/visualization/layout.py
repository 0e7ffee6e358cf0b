"""Size and arrangement of pictures: enlarging small ones, captions above them."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from pe_spatial.data.resizing import fitted_size

# below this many pixels on the shorter side, a picture is enlarged before anything is written into it
_LEGIBLE = 480
_GAP = 8  # white pixels between two panels
LONGEST = 4096  # pixels of the longer side up to which it is enlarged: thin pictures stay thin
PICTURE_SIZE = 2048  # pixels of the longer side of a picture to look at, if nothing else is asked for


def enlarge(image: Tensor) -> tuple[Tensor, int]:
    """A small image at a whole multiple of its size, so that captions can be read; and that factor (1: unchanged)."""
    H, W = image.shape[-2:]
    factor = max(min(-(-_LEGIBLE // min(H, W)), LONGEST // max(H, W)), 1)
    return (
        TF.resize(image, [H * factor, W * factor], interpolation=InterpolationMode.BICUBIC) if factor > 1 else image
    ), factor


def reducing_step(size: Sequence[int], longest: int) -> int:
    """The whole factor by which (H, W) is divided so that the longer side has at most `longest` pixels."""
    return -(-max(size) // longest)


def thinned(maps: Tensor, longest: int) -> Tensor:
    """Maps [..., H, W] with rows and columns left out, so that the longer side has at most `longest`."""
    step = reducing_step(maps.shape[-2:], longest)
    return maps[..., ::step, ::step]


def reduced(image: Tensor, longest: int) -> Tensor:
    """An image uint8 [3, H, W] of the size of its `thinned` maps; a pixel is the mean of those that it stands for."""
    step = reducing_step(image.shape[-2:], longest)
    if step == 1:
        return image
    pixels = image.as_subclass(Tensor).permute(1, 2, 0).numpy()
    made = np.ascontiguousarray(pixels[::step, ::step])  # the last row and column may have less to stand for
    rows, columns = (side // step for side in pixels.shape[:2])
    if rows and columns:
        whole = np.ascontiguousarray(pixels[: rows * step, : columns * step])
        made[:rows, :columns] = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(made).permute(2, 0, 1)


def shrink(picture: Tensor, longest: int) -> Tensor:
    """A picture [3, H, W] whose longer side is at most `longest` pixels."""
    H, W = picture.shape[-2:]
    if max(H, W) <= longest:
        return picture
    return TF.resize(picture, list(fitted_size((H, W), min(H, W), longest, "half_up")))


def reduce_thin(picture: Tensor, least: int) -> Tensor:
    """A picture [C, H, W] that is thinner than `least` with rows and columns left out, down to `LONGEST`."""
    step = reducing_step(picture.shape[-2:], LONGEST) if min(picture.shape[-2:]) < least else 1
    return picture[:, ::step, ::step]


def beside(left: Tensor, right: Tensor) -> Tensor:
    """Two pictures uint8 [3, H, W] side by side; the lower one gets white below."""
    height, width = max(left.shape[-2], right.shape[-2]), left.shape[-1] + right.shape[-1]
    both = torch.empty(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)  # in the order in which files are written
    for first, side in ((0, left), (left.shape[-1], right)):
        columns = slice(first, first + side.shape[-1])
        both[:, : side.shape[-2], columns] = side
        both[:, side.shape[-2] :, columns] = 255
    return both


def row(panels: Mapping[str, Tensor]) -> Tensor:
    """Pictures uint8 [3, H, W] side by side, with white between them, below their captions, all in one size."""
    sides = [side for picture in panels.values() for side in picture.shape[-2:]]
    size = max(11, min(sides) / 24)
    for caption, picture in panels.items():
        length = ImageFont.load_default(size).getlength(caption)
        size = max(min(size, size * (picture.shape[-1] - size) / max(length, 1)), 8)
    whole = torch.empty(3, 0, 0, dtype=torch.uint8)
    for caption, picture in panels.items():
        gap = _GAP if whole.numel() else 0
        whole = beside(TF.pad(whole, [0, 0, gap, 0], fill=255), caption_strip(caption, picture, size))
    return whole


def caption_strip(caption: str, picture: Tensor, size: float | None = None) -> Tensor:
    """A picture uint8 [3, H, W] below a light strip with a caption; pictures of one size get strips of one height.

    Args:
        caption: One line.
        picture: The picture.
        size: Of the font, in pixels; default: fit for the picture.
    """
    H, W = picture.shape[-2:]
    size = size or max(11, min(H, W) / 24)
    height = round(1.75 * size / 2) * 2
    strip = Image.new("RGB", (W, height), (245, 245, 245))
    ImageDraw.Draw(strip).text(
        (height // 3, height / 2), caption, font=ImageFont.load_default(size), fill=(0, 0, 0), anchor="lm"
    )
    return torch.cat([TF.pil_to_tensor(strip), picture.as_subclass(Tensor)], dim=1)
