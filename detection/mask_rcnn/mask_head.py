"""Mask head: a crop of 14x14 cells to one 28x28 mask per class. R boxes, K classes, G objects."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import roi_align

from pe_spatial.data import Outline, decode_mask
from pe_spatial.detection.mask_rcnn.layers import ConvHead


@MODELS.register_module()
class ConvUpsampleMaskHead(ConvHead):
    """Convolutions with LayerNorm, a deconvolution that doubles the grid, and a 1x1 predictor.

    Args:
        in_channels: Channels of a crop.
        num_classes: K.
        conv_channels: Channels of the convolutions and of the deconvolution.
        num_convs: Number of 3x3 convolutions.
        resolution: Cells along each side of a crop; the masks have twice as many.
    """

    def __init__(
        self, in_channels: int, num_classes: int, conv_channels: int = 256, num_convs: int = 4, resolution: int = 14
    ) -> None:
        super().__init__("mask_fcn", in_channels, conv_channels, num_convs, resolution)
        self.deconv = nn.ConvTranspose2d(self.width, conv_channels, 2, stride=2)
        self.predictor = nn.Conv2d(conv_channels, num_classes, 1)
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for bias in (self.deconv.bias, self.predictor.bias):
            assert bias is not None
            nn.init.zeros_(bias)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Mask logits [R, 28, 28], fp32, of the classes `labels` [R], from crops [R, C, 14, 14]."""
        x = self.predictor(F.relu(self.deconv(self.convolve(x))))  # [R, K, 28, 28]
        return x[torch.arange(len(labels), device=x.device), labels].float()


def crop_masks(masks: Tensor | Sequence[Outline], gt_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Targets of the head: the masks of the objects, cropped to boxes, as Detectron2 crops either format.

    Args:
        masks: [G, H, W] bool, or G outlines.
        gt_index: [R], the object of each box.
        boxes: [R, 4] xyxy in pixels of the masks.
        size: Cells along each side of the result.

    Returns:
        [R, size, size] bool, on the device of the boxes: of bitmaps, whether at least half of a cell is covered
        (bilinear samples); of polygons, the cells that COCO's rasterizer fills.
    """
    if not isinstance(masks, Tensor):
        crops = torch.zeros(len(boxes), size, size, dtype=torch.bool)
        for crop, index, box in zip(crops, gt_index.tolist(), boxes.detach().cpu().float().numpy(), strict=True):
            crop.copy_(torch.from_numpy(_rasterize(masks[index], box, size)))
        return crops.to(boxes.device)
    rois = torch.cat([gt_index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, size, 1.0, sampling_ratio=0, aligned=True)
    return crops[:, 0] >= 0.5


def _rasterize(outline: Outline, box: NDArray[np.float32], size: int) -> NDArray[np.bool_]:
    """The cells [size, size] of a box [4] that an outline fills; sides below a tenth of a pixel count as that."""
    if not outline:
        return np.zeros((size, size), bool)
    scale = size / np.maximum(box[2:] - box[:2], np.float32(0.1))
    return decode_mask([((ring - box[:2]) * scale).ravel() for ring in outline], (size, size))


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over all cells of `logits` and `targets` [R, 28, 28]; 0 where R is 0."""
    loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    return loss / max(targets.numel(), 1)
