"""From the boxes and scores of an image's queries to its detections.

A post-processor is a module that maps boxes [Q, 4] (xyxy, pixels of the original image) and scores [Q, K] of Q queries
and K classes to `InstanceData` with `bboxes` [N, 4], `scores` [N] and `labels` [N], the best first. It is
registered and named by `model.postprocess`.
"""

import torch
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from pe_spatial.detection.nms import Method, Suppression


@MODELS.register_module()
class TopKPostprocess(nn.Module):
    """The best pairs of query and class, as they are: enough for a model that was trained one to one."""

    def __init__(self, max_detections: int = 100) -> None:
        super().__init__()
        self.max_detections = max_detections

    def forward(self, boxes: Tensor, scores: Tensor) -> InstanceData:
        """See the module."""
        return best_pairs(boxes, scores, self.max_detections)


class _SuppressingPostprocess(nn.Module):
    """The best pairs of query and class after a suppression."""

    def __init__(self, suppression: Suppression, candidates: int, max_detections: int | None) -> None:
        super().__init__()
        self.suppression = suppression
        self.candidates = candidates
        self.max_detections = max_detections

    def forward(self, boxes: Tensor, scores: Tensor) -> InstanceData:
        """See the module."""
        return self.suppression.suppress(best_pairs(boxes, scores, self.candidates), self.max_detections)


@MODELS.register_module()
class NMSPostprocess(_SuppressingPostprocess):
    """Non-maximum suppression within every class.

    Args:
        threshold: IoU above which the weaker of two boxes goes.
        candidates: Best pairs of query and class that take part.
        max_detections: How many are kept.
    """

    def __init__(self, threshold: float = 0.7, candidates: int = 10000, max_detections: int = 100) -> None:
        super().__init__(Suppression("nms", threshold), candidates, max_detections)

    def fixed(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image in tensors whose sizes follow no values; for graphs.

        Returns:
            Boxes [D, 4], scores [D] and labels [D], best first, and 0 where there are fewer. D is `max_detections`, or
            less where there are fewer candidates.
        """
        best = best_pairs(boxes, scores, self.candidates)
        most = min(self.max_detections or len(best.scores), len(best.scores))
        return self.suppression.fixed(best.bboxes, best.scores, best.labels, scores.shape[1], most)


@MODELS.register_module()
class SoftNMSPostprocess(_SuppressingPostprocess):
    """Suppression that lowers the scores of boxes that repeat others, and keeps them; see `Suppression`.

    Args:
        method: See `Suppression`; the defaults of all three are the authors'.
        threshold: See `Suppression`.
        scale: See `Suppression`.
        candidates: Best pairs of query and class that take part.
        max_detections: How many are kept; None keeps all, like the authors.
    """

    def __init__(
        self,
        method: Method = "quad",
        threshold: float = 0.7,
        scale: float = 0.5,
        candidates: int = 2000,
        max_detections: int | None = None,
    ) -> None:
        super().__init__(Suppression(method, threshold, scale), candidates, max_detections)


def best_pairs(boxes: Tensor, scores: Tensor, number: int) -> InstanceData:
    """The `number` best pairs of query and class, the best first; boxes [Q, 4], scores [Q, K]."""
    flat = scores.flatten()
    values, index = flat.topk(min(number, len(flat)))
    return InstanceData(
        bboxes=boxes[torch.div(index, scores.shape[1], rounding_mode="floor")],
        scores=values,
        labels=index % scores.shape[1],
    )
