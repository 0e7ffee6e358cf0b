"""The transform of segmentation that torchvision lacks."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from pe_spatial.data import FixedSizeCrop
from pe_spatial.data.sample import IGNORE_LABEL

_TRIES = 10


@TRANSFORMS.register_module()
class MixedCrop(FixedSizeCrop):
    """A random crop of which no class covers more than a share, where ten tries find one.

    Args:
        size: (H, W) in pixels; a side that is shorter stays as it is.
        largest_share: Of one class among the labelled pixels. A crop without a label is tried again too.
    """

    def __init__(self, size: Sequence[int], largest_share: float = 0.75) -> None:
        super().__init__(size)
        if not 0 < largest_share <= 1:
            raise ValueError(f"largest_share {largest_share} is not a share above 0 and up to 1")
        self.largest_share = largest_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One place for everything in the sample.

        Raises:
            ValueError: No label map in the sample.
        """
        labels = [item for item in flat_inputs if isinstance(item, tv_tensors.Mask) and item.dtype == torch.int64]
        if not labels:
            raise ValueError("MixedCrop needs a label map; put LoadSegmentation before it in the pipeline")
        for _ in range(_TRIES):
            params = super().make_params(flat_inputs)
            if self._is_mixed(F.crop(labels[0], **params)):
                break
        return params

    def _is_mixed(self, labels: torch.Tensor) -> bool:
        counts = torch.bincount(labels.flatten(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
        return int(counts.sum()) > 0 and int(counts.max()) <= self.largest_share * int(counts.sum())
