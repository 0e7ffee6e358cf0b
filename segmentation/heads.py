"""A linear head, which mmseg lacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from pe_spatial.data.stacked import stack_labels
from pe_spatial.segmentation.upsampled_loss import upsampled_cross_entropy


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
        self._default_loss = not loss_decode

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone to scores [B, K, h, w] at the resolution of the chosen one."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """The loss of scores [B, K, h, w] and their accuracy in percent; the default loss takes the fast way."""
        if not self._default_loss:
            return super().loss_by_feat(seg_logits, batch_data_samples)
        labels = stack_labels(batch_data_samples, "gt_sem_seg")
        loss, accuracy = upsampled_cross_entropy(seg_logits, labels, self.ignore_index)
        return {"loss_ce": loss, "acc_seg": accuracy}
