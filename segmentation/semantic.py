"""The contract of the models of this package.

Code that cuts images into windows itself calls `segment_logits`, which gives class scores of a crop. Everything else
calls mmengine's `forward(inputs, data_samples, mode)`. In mode "predict" a data sample gets, in the frame of the
original image:

    pred_sem_seg    PixelData, data int64 [1, H, W]: the class of every pixel
    pred_panoptic   PixelData, data int32 [1, H, W] of segment ids from 1, 0 where nothing was found, together with the
                    metainfo `segments`: a list of {id, label, score, area, is_thing}, one per segment
    pred_instances  InstanceData: bboxes [N, 4] xyxy, labels [N], scores [N], masks: RLEs [N] of the image

`pred_sem_seg` is always there for a semantic model; the mask decoder adds the other two where its `outputs` name them.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.parts import unpad
from pe_spatial.segmentation.cell_grid import as_indices, grid_of
from pe_spatial.segmentation.windows import Window, pad_to_multiple, slide


@runtime_checkable
class SemanticModel(Protocol):
    """A model that gives every pixel a class; what is written out here serves the models that inherit from it.

    Attributes:
        num_classes: K.
        window: How images are cut in evaluation; None takes them whole.
        stride: Images are padded to multiples of it before `score_map`.
        align_corners: How a score map is enlarged to its image.
    """

    num_classes: int
    window: Window | None
    stride: int
    align_corners: bool

    def score_map(self, inputs: Tensor) -> Tensor:
        """Class scores [B, K, h, w] at the model's own resolution of images [B, 3, H, W], multiples of `stride`.

        They become scores of pixels by bilinear interpolation to (H, W).
        """

    def segment_logits(self, inputs: Tensor) -> Tensor:
        """Class scores [B, K, H, W] of normalized images [B, 3, H, W] of any size.

        The largest is the class. Where windows overlap, the scores are averaged before they are compared. Images are
        padded to multiples of `stride`, and the padding is cut off again.
        """
        padded = pad_to_multiple(inputs, self.stride)
        scores = F.interpolate(
            self.score_map(padded), size=padded.shape[-2:], mode="bilinear", align_corners=self.align_corners
        )
        return scores[:, :, : inputs.shape[-2], : inputs.shape[-1]]

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores [..., K, H, W] as probabilities that sum to 1 over K."""
        return scores.softmax(dim=-3)


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
        grid = grid_of(sample)
        if grid is None:
            frame = unpad(sample, padded).argmax(dim=0, keepdim=True)
        else:
            height, width = sample.img_shape[:2]
            frame = as_indices(grid.labels(padded[:, :height, :width]))[None]
        sample.set_field(PixelData(data=frame), "pred_sem_seg", dtype=PixelData)
    return list(data_samples)
