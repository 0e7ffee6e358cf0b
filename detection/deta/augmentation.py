"""The augmentation of DETA's authors, in place of large-scale jitter."""

from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data import FixedSizeCrop

_STEP = 32  # between the sizes that are drawn from, and what every size leaves of the input
_BEFORE_CROP = (400, 500, 600)
_CROP = (384, 600)


@TRANSFORMS.register_module()
class ResizeOrCrop:
    """Resize the image to at most `size - 32` pixels, or enlarge a part of it, with equal probability.

    Resizing draws the shorter side from `shortest` in steps of 32 below `size`; the longer one is at most
    `size - 32`. The part has sides of 384 to 600 pixels of the image at a shorter side of 400, 500 or 600, and is
    enlarged as far as the longer side allows. The preprocessor pads both to `size`.

    Args:
        size: Side of the model's square input in pixels.
        shortest: Least shorter side.

    Raises:
        OptionError: `shortest` is not below `size - 32`.
    """

    def __init__(self, size: int, shortest: int = 480) -> None:
        if not 0 < shortest < size - _STEP:
            raise OptionError(f"shortest {shortest} is not between 0 and size - {_STEP} = {size - _STEP}; lower it")
        longest = size - _STEP
        self._resize = v2.RandomShortestSize(list(range(shortest, size, _STEP)), max_size=longest)
        self._before_crop = v2.RandomShortestSize(list(_BEFORE_CROP))
        self._after_crop = v2.RandomShortestSize([longest], max_size=longest)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Transform one sample; instances outside of the part are left to `SanitizeInstances`."""
        if torch.rand(()) < 0.5:
            return self._resize(sample)
        sample = self._before_crop(sample)
        height, width = (_draw(*_CROP, side) for side in F.get_size(sample["img"]))
        return self._after_crop(FixedSizeCrop((height, width))(sample))


def _draw(least: int, most: int, side: int) -> int:
    """A length from `least` to `most` that fits into `side`."""
    most = min(most, side)
    return int(torch.randint(min(least, most), most + 1, ()))
