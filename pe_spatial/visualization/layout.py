"""Size and arrangement of pictures: enlarging small ones, captions above them."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

# below this many pixels on the shorter side, a picture is enlarged before anything is written into it
_LEGIBLE = 480


def enlarge(image: Tensor) -> tuple[Tensor, int]:
    """A small image at a whole multiple of its size, so that captions can be read; and that factor (1: unchanged)."""
    H, W = image.shape[-2:]
    factor = -(-_LEGIBLE // min(H, W))
    return (
        TF.resize(image, [H * factor, W * factor], interpolation=InterpolationMode.BICUBIC) if factor > 1 else image
    ), factor


def caption_strip(caption: str, picture: Tensor) -> Tensor:
    """A picture uint8 [3, H, W] below a light strip with a caption; pictures of one size get strips of one height."""
    H, W = picture.shape[-2:]
    size = max(11, min(H, W) / 24)
    height = round(1.75 * size / 2) * 2
    strip = Image.new("RGB", (W, height), (245, 245, 245))
    ImageDraw.Draw(strip).text(
        (height // 3, height / 2), caption, font=ImageFont.load_default(size), fill=(0, 0, 0), anchor="lm"
    )
    return torch.cat([TF.pil_to_tensor(strip), picture.as_subclass(Tensor)], dim=1)
