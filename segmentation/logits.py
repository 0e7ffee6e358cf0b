"""The contract of the models of this package.

Code that cuts images into windows itself calls `segment_logits`, which gives class scores of a crop. Everything else
calls mmengine's `forward(inputs, data_samples, mode)`. In mode "predict" a data sample gets, in the frame of the
original image:

    pred_sem_seg    PixelData, data int64 [1, H, W]: the class of every pixel
    pred_panoptic   PixelData, data int32 [1, H, W] of segment ids from 1, 0 where nothing was found, together with the
                    metainfo `segments`: a list of {id, label, score, area, is_thing}, one per segment
    pred_instances  InstanceData: bboxes [N, 4] xyxy, labels [N], scores [N], masks bool [N, H, W]

`pred_sem_seg` is always there for a semantic model; the mask decoder adds the other two where its `outputs` name them.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Window(NamedTuple):
    """A window that slides over an image; both (H, W) in pixels of the model's input."""

    size: tuple[int, int]
    stride: tuple[int, int]


@runtime_checkable
class SemanticModel(Protocol):
    """A model that gives every pixel a class.

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

        The largest is the class. Where windows overlap, the scores are averaged before they are compared.
        """

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores [..., K, H, W] as probabilities that sum to 1 over K."""
