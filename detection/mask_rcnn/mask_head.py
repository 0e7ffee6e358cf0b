"""Mask head: a crop of 14x14 cells to one 28x28 mask per class. R boxes, K classes, G objects."""

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.ops import roi_align

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


def crop_masks(masks: Tensor, gt_index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Targets of the head: the masks of the objects, cropped to boxes.

    Args:
        masks: [G, H, W] bool.
        gt_index: [R], the object of each box.
        boxes: [R, 4] xyxy in pixels of the masks.
        size: Cells along each side of the result.

    Returns:
        [R, size, size] bool: whether at least half of a cell is covered (bilinear samples).
    """
    rois = torch.cat([gt_index[:, None].to(boxes.dtype), boxes], dim=1)
    crops = roi_align(masks[:, None].to(boxes.dtype), rois, size, 1.0, sampling_ratio=0, aligned=True)
    return crops[:, 0] >= 0.5


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over all cells of `logits` and `targets` [R, 28, 28]; 0 where R is 0."""
    loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    return loss / max(targets.numel(), 1)
