"""The transforms of segmentation that torchvision lacks."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data import FixedSizeCrop, fitted_size
from pe_spatial.data.sample import IGNORE_LABEL

_TRIES = 10


@TRANSFORMS.register_module()
class RandomScale(v2.Transform):
    """Resize so that the shorter side becomes `size` times a random factor; sizes are those of mmseg's `RandomResize`.

    Args:
        size: In pixels.
        scale_range: Of the factor, which is uniform.
        max_aspect: An image that is longer than this many times its width (or the other way round) is resized by its
            longer side, to `max_aspect * size` times the factor.
    """

    def __init__(self, size: int, scale_range: tuple[float, float] = (0.5, 2.0), max_aspect: float = 4.0) -> None:
        super().__init__()
        if size < 1 or not 0 < scale_range[0] <= scale_range[1] or max_aspect < 1:
            raise OptionError(
                f"size {size} must be at least one pixel, scale_range {list(scale_range)} two increasing positive "
                f"factors and max_aspect {max_aspect} at least 1"
            )
        self.size = size
        self.scale_range = scale_range
        self.max_aspect = max_aspect

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One size for everything in the sample."""
        height, width = v2.query_size(flat_inputs)
        shorter = self.size * float(torch.empty(()).uniform_(*self.scale_range))
        size, max_size = max(int(shorter), 1), max(int(shorter * self.max_aspect), 1)
        return {"size": list(fitted_size((height, width), size, max_size, "half_up"))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one tensor of the sample: images with antialiasing, label maps by the nearest pixel."""
        return F.resize(inpt, **params)


@TRANSFORMS.register_module()
class MixedCrop(FixedSizeCrop):
    """A random crop of which no class covers more than a share, where ten tries find one.

    Args:
        size: (H, W) in pixels, or the side of a square; a side that is shorter stays as it is.
        largest_share: Of one class among the labeled pixels. A crop without a label is tried again too.
    """

    needs_labels = True

    def __init__(self, size: int | Sequence[int], largest_share: float = 0.75) -> None:
        super().__init__(size)
        if not 0 < largest_share <= 1:
            raise OptionError(f"largest_share {largest_share} is not a share above 0 and up to 1")
        self.largest_share = largest_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One place for everything in the sample.

        Raises:
            OptionError: No label map in the sample.
        """
        labels = [item for item in flat_inputs if isinstance(item, tv_tensors.Mask) and item.dtype == torch.int64]
        if not labels:
            raise OptionError("MixedCrop needs a label map; put LoadSegmentation before it in the pipeline")
        for _ in range(_TRIES):
            params = super().make_params(flat_inputs)
            if self._is_mixed(F.crop(labels[0], **params)):
                break
        return params

    def _is_mixed(self, labels: torch.Tensor) -> bool:
        counts = torch.bincount(labels.flatten(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
        return int(counts.sum()) > 0 and int(counts.max()) <= self.largest_share * int(counts.sum())
