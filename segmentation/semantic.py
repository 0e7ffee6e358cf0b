"""From the scores of a semantic model to the class of every pixel of the original image."""

from collections.abc import Sequence

from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.parts import unpad
from pe_spatial.segmentation.logits import SemanticModel
from pe_spatial.segmentation.windows import pad_to_multiple, slide


def enlarge_score_map(model: SemanticModel, inputs: Tensor) -> Tensor:
    """The model's `segment_logits` by way of its `score_map`: pad to whole patches, enlarge, cut the padding off."""
    padded = pad_to_multiple(inputs, model.stride)
    scores = F.interpolate(
        model.score_map(padded), size=padded.shape[-2:], mode="bilinear", align_corners=model.align_corners
    )
    return scores[:, :, : inputs.shape[-2], : inputs.shape[-1]]


def predict_semantic(
    model: SemanticModel, inputs: Tensor, data_samples: Sequence[BaseDataElement]
) -> list[BaseDataElement]:
    """Fill `pred_sem_seg` of the data samples, through the model's window if it has one.

    Args:
        model: The model.
        inputs: Normalized and padded images [B, 3, H, W].
        data_samples: With the metainfo `img_shape`, the size before the padding, and `ori_shape`.
    """
    if model.window is None:
        scores = model.segment_logits(inputs)
    else:
        scores = slide(model.segment_logits, inputs, model.window)
    for sample, padded in zip(data_samples, scores, strict=True):
        frame = unpad(sample, padded).argmax(dim=0, keepdim=True)
        sample.set_field(PixelData(data=frame), "pred_sem_seg", dtype=PixelData)
    return list(data_samples)
