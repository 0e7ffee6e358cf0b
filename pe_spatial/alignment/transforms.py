"""The transforms of alignment: jitter of the aspect ratio, and tokens that are hidden from the student."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError, require_positive


@TRANSFORMS.register_module()
class RandomAspect(v2.Transform):
    """Resize to a fixed size with a random distortion, and as little cropping as that takes.

    A factor is drawn from `ratio`, log-uniformly. The largest window whose aspect ratio is the image's times that
    factor, at a random place, is squeezed or stretched to `size`: one side of the image is always whole. The paper
    says "aspect jitter, no random crop"; on a canvas of fixed size, an aspect ratio cannot change otherwise.

    Args:
        size: (H, W) of the result in pixels.
        ratio: Least and greatest factor; [1, 1] only resizes.
    """

    def __init__(self, size: Sequence[int], ratio: Sequence[float] = (0.75, 1.33)) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 1:
            raise OptionError(f"size {list(size)} is not (H, W) in pixels")
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise OptionError(f"ratio {list(ratio)} is not (least, greatest), both above 0")
        self.size = [int(side) for side in size]
        self.ratio = (float(ratio[0]), float(ratio[1]))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One window for everything in the sample."""
        rows, columns = v2.query_size(flat_inputs)
        low, high = (math.log(bound) for bound in self.ratio)
        factor = math.exp(low + (high - low) * float(torch.rand(())))
        height = max(round(rows / max(factor, 1)), 1)
        width = max(round(columns * min(factor, 1)), 1)
        top = int(torch.randint(rows - height + 1, ()))
        left = int(torch.randint(columns - width + 1, ()))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize one tensor of the sample."""
        return self._call_kernel(F.resized_crop, inpt, **params, size=self.size, antialias=True)


@TRANSFORMS.register_module()
class HideTokens:
    """Draw which tokens the student does not see: `token_mask`, bool [1, h, w].

    The pattern belongs to the draw, like all augmentation: it depends neither on the number of processes nor on the
    batch. Place it after the last change of the image's size.

    Args:
        patch_size: Of the student, in pixels.
        ratio: Part of the units that is hidden, rounded to whole units.
        unit: Side of a unit in tokens; units at the right and lower edge may be cut.
    """

    def __init__(self, patch_size: int, ratio: float = 0.75, unit: int = 2) -> None:
        require_positive(patch_size=patch_size, unit=unit)
        if not 0 <= ratio < 1:
            raise OptionError(f"ratio {ratio} is not in [0, 1); 0 hides nothing, and something must be seen")
        self.patch_size = patch_size
        self.ratio = ratio
        self.unit = unit

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Draw for one sample."""
        rows, columns = (-(-side // self.patch_size) for side in sample["img"].shape[-2:])
        units = (-(-rows // self.unit), -(-columns // self.unit))
        count = units[0] * units[1]
        hidden = torch.zeros(count, dtype=torch.bool)
        hidden[torch.randperm(count)[: round(self.ratio * count)]] = True
        mask = hidden.view(units).repeat_interleave(self.unit, 0).repeat_interleave(self.unit, 1)
        return {**sample, "token_mask": mask[None, :rows, :columns]}
