"""Box head: a crop of 7x7 cells to class logits and box offsets. R boxes, K classes."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.linear import Linear
from pe_spatial.detection.mask_rcnn.layers import ConvHead


@MODELS.register_module()
class ConvFCBoxHead(ConvHead):
    """Convolutions with LayerNorm, then one fully connected layer.

    Args:
        in_channels: Channels of a crop.
        conv_channels: Channels of the convolutions.
        num_convs: Number of 3x3 convolutions.
        fc_channels: Channels of the result.
        resolution: Cells along each side of a crop.
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: int = 256,
        num_convs: int = 4,
        fc_channels: int = 1024,
        resolution: int = 7,
    ) -> None:
        super().__init__("conv", in_channels, conv_channels, num_convs, resolution)
        self.out_channels = fc_channels
        self.fc1 = Linear(self.width * resolution**2, fc_channels)
        nn.init.kaiming_uniform_(self.fc1.weight, a=1)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Turn crops [R, C, 7, 7] into vectors [R, fc_channels]."""
        return F.relu(self.fc1(self.convolve(x).flatten(1)))


class BoxPredictor(nn.Module):
    """Logits [R, K + 1], background last, and offsets [R, K * 4], one box per class; both fp32."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = Linear(in_channels, num_classes + 1)
        self.bbox_pred = Linear(in_channels, num_classes * 4)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map vectors [R, in_channels] to logits and offsets."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()
