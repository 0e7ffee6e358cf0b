"""A linear head, which mmseg lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """Batch norm and a linear classifier of every cell of one map: the linear probe of the PE and DINO papers.

    Args:
        in_channels: Channels of the map.
        num_classes: K.
        in_index: Which of the maps.
        dropout_ratio: Share of channels that are dropped in training.
        loss_decode: Config of the loss; by default the cross-entropy, averaged over the labeled pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        in_index: int = -1,
        dropout_ratio: float = 0.1,
        loss_decode: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            in_channels,
            num_classes=num_classes,
            out_channels=num_classes,
            in_index=in_index,
            dropout_ratio=dropout_ratio,
            loss_decode=dict(loss_decode or {"type": "mmseg.CrossEntropyLoss", "avg_non_ignore": True}),
        )
        self.norm = nn.BatchNorm2d(in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone to scores [B, K, h, w] at the resolution of the chosen one."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
