"""The augmentation of DETA's authors, in place of large-scale jitter."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data import FixedSizeCrop, KeepRatioResize

_STEP = 32  # between the sizes that are drawn from, and what every size leaves of the input
_BEFORE_CROP = (400, 500, 600)
_LONGEST_BEFORE_CROP = 20_000  # of a thin image, which would fill the memory; the authors have no bound
_CROP = (384, 600)


@TRANSFORMS.register_module()
class ResizeOrCrop:
    """Resize the image to at most `size - 32` pixels, or enlarge a part of it, with equal probability.

    Resizing draws the shorter side from `shortest` in steps of 32 below `size`; the longer one is at most
    `size - 32`. The part has sides of 384 to 600 pixels of the image at a shorter side of 400, 500 or 600, and is
    enlarged as far as the longer side allows. The preprocessor pads both to `size`, which no longer side exceeds.

    Args:
        size: Side of the model's square input in pixels.
        shortest: Least shorter side.

    Raises:
        OptionError: `shortest` is not below `size - 32`.
    """

    def __init__(self, size: int, shortest: int = 480) -> None:
        if not 0 < shortest < size - _STEP:
            raise OptionError(f"shortest {shortest} is not between 0 and size - {_STEP} = {size - _STEP}; lower it")
        self.size = size
        self.shortest = range(shortest, size, _STEP)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Transform one sample; instances outside of the part are left to `SanitizeInstances`."""
        longest = self.size - _STEP
        if torch.rand(()) < 0.5:
            return _resize(sample, self.shortest, longest, self.size)
        sample = _resize(sample, _BEFORE_CROP, None, _LONGEST_BEFORE_CROP)
        height, width = (_draw(*_CROP, side) for side in F.get_size(sample["img"]))
        return _resize(FixedSizeCrop((height, width))(sample), [longest], longest, self.size)


def _resize(sample: dict[str, Any], sizes: Sequence[int], max_size: int | None, limit: int) -> dict[str, Any]:
    """Resize the shorter side to one of several sizes."""
    size = sizes[int(torch.randint(len(sizes), ()))]
    return KeepRatioResize(size, max_size, "floor_long", limit)(sample)


def _draw(least: int, most: int, side: int) -> int:
    """A length from `least` to `most` that fits into `side`."""
    most = min(most, side)
    return int(torch.randint(min(least, most), most + 1, ()))
