"""RoIAlign over a pyramid: each box is read from the level that suits its size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from pe_spatial.common.errors import OptionError

_OUTSIDE = (-9.0, -9.0, -8.0, -8.0)  # a box, in cells, whose samples are zero


class RoIPooler:
    """Crops of boxes, [sum of N, C, size, size].

    A box of 56 cells of the finest map (224 pixels at stride 4) is read two levels up, and one level further with
    every doubling (equation 1 of "Feature Pyramid Networks for Object Detection").

    Args:
        size: Cells along each side of a crop.
        strides: Strides of the maps in pixels, finest first, each twice the one before.

    Raises:
        OptionError: Strides that do not double.
    """

    def __init__(self, size: int, strides: Sequence[float]) -> None:
        if any(b != 2 * a for a, b in zip(strides, strides[1:], strict=False)):
            raise OptionError(
                f"strides {tuple(strides)} must double from map to map; otherwise boxes cannot be assigned to a level"
            )
        self.size = size
        self.strides = tuple(strides)

    def levels(self, boxes: Tensor) -> Tensor:
        """Index of the map for each of `boxes` [N, 4]."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level = (2 + torch.log2(side / (56 * self.strides[0]) + 1e-8)).floor()
        return level.clamp(0, len(self.strides) - 1).long()

    def __call__(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Crop `boxes` (per image [N, 4] xyxy, input pixels) out of `features` (per level [B, C, H, W])."""
        image = torch.repeat_interleave(
            torch.arange(len(boxes), device=features[0].device),
            torch.tensor([len(b) for b in boxes], device=features[0].device),
        )
        rois = torch.cat([image[:, None].float(), torch.cat(list(boxes)).float()], dim=1)  # [N, 5]
        level = self.levels(rois[:, 1:])
        crops, order = [], []
        # every level takes part even without boxes, so that each keeps a (zero) gradient
        for i, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            index = (level == i).nonzero().squeeze(1)
            crops.append(roi_align(feature, rois[index], self.size, 1 / stride, sampling_ratio=0, aligned=True))
            order.append(index)
        return torch.cat(crops)[torch.cat(order).argsort()]

    def fixed(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Crop `boxes` [B, N, 4] as above, to [B * N, C, size, size]; for graphs, whose sizes follow no values.

        Every level crops as many boxes, and the crops are added up: for a box of another level it reads one outside of
        its map, which gives zeros. One without area would too, but not with OpenVINO (0 / 0).
        """
        count = boxes.shape[1]
        image = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype).repeat_interleave(count)
        boxes = boxes.reshape(-1, 4)
        level = self.levels(boxes)
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        crops: Tensor | None = None
        for i, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            outside = boxes.new_tensor(_OUTSIDE) * stride
            rois = torch.where((has_area & (level == i))[:, None], boxes, outside)
            rois = torch.cat([image[:, None], rois], 1)
            found = roi_align(feature, rois, self.size, 1 / stride, sampling_ratio=0, aligned=True)
            crops = found if crops is None else crops + found
        assert crops is not None, "a pyramid has maps"
        return crops
