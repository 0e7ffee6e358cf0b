"""The matching of predictions and objects: by overlap, many to one, or one to one at the least cost.

Letters: B images, N predictions of an image, G its objects, K classes, M matched pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.transformer import Prediction
from pe_spatial.detection.mask_rcnn.boxes import Assigner

_PER_OBJECT = 4  # predictions that are matched with an object at most
_ENCODER_SAMPLES = 256


class Target(NamedTuple):
    """The objects of one image: boxes [G, 4] (cx, cy, w, h, relative to the image), labels [G] in 0…K-1."""

    boxes: Tensor
    labels: Tensor


class MatchedPairs(NamedTuple):
    """M matched pairs: predictions [M] and, in the same order, their objects [M]."""

    predictions: Tensor
    objects: Tensor


class IoUMatching:
    """DETA's assignment (Ouyang-Zhang et al., 2022, arXiv:2212.06137).

    Tokens are compared by their anchors, queries by the boxes that they start from. The matching of the queries holds
    for all decoder layers. A prediction is a candidate of the object that it overlaps most, if the IoU is at least 0.7
    (tokens) or 0.6 (queries); the best prediction of every object is always a candidate. At most 128 tokens, or a
    quarter of the queries, are sampled among the candidates at random. An object with n sampled candidates is matched
    with the min(n, 4) predictions that overlap it most.
    """

    def __init__(self) -> None:
        self._tokens = Assigner((0.3, 0.7), _ENCODER_SAMPLES, 0.5, keep_best=True)

    def encoder(self, prediction: Prediction, targets: Sequence[Target]) -> list[MatchedPairs]:
        """Pairs of tokens and objects for every image."""
        return self._match(self._tokens, prediction.references, targets)

    def decoder(self, layers: Sequence[Prediction], targets: Sequence[Target]) -> list[list[MatchedPairs]]:
        """For every layer, pairs of queries and objects for every image."""
        references = layers[0].references
        assigner = Assigner((0.6, 0.6), references.shape[1], 0.25, keep_best=True)
        return [self._match(assigner, references, targets)] * len(layers)

    def _match(self, assigner: Assigner, references: Tensor, targets: Sequence[Target]) -> list[MatchedPairs]:
        corners = to_corners(references.detach().float())
        return [_match_by_overlap(assigner, c, to_corners(t.boxes)) for c, t in zip(corners, targets, strict=True)]


def _match_by_overlap(assigner: Assigner, candidates: Tensor, objects: Tensor) -> MatchedPairs:
    """Pairs of `candidates` [N, 4] and `objects` [G, 4]."""
    match = assigner.match(candidates, objects)
    positive, _ = assigner.sample(match.label)
    matched_counts = torch.bincount(match.gt_index[positive], minlength=len(objects))[: len(objects)]  # [G]
    overlap = box_iou(objects, candidates)  # [G, N]
    best = overlap.topk(min(_PER_OBJECT, len(candidates)), dim=1).indices  # [G, k]
    wanted = torch.arange(best.shape[1], device=best.device) < matched_counts[:, None]
    return MatchedPairs(best[wanted], wanted.nonzero()[:, 0])


class OneToOneMatching:
    """DETR's assignment: the one-to-one matching of the least cost, anew for every layer.

    The cost is 2 (focal loss as an object of the class - as none) + 5 (L1 distance of the boxes) - 2 (generalized
    IoU). For tokens all objects are of class 0.
    """

    def encoder(self, prediction: Prediction, targets: Sequence[Target]) -> list[MatchedPairs]:
        """Pairs of tokens and objects for every image."""
        return _match_at_least_cost(prediction, [Target(t.boxes, torch.zeros_like(t.labels)) for t in targets])

    def decoder(self, layers: Sequence[Prediction], targets: Sequence[Target]) -> list[list[MatchedPairs]]:
        """For every layer, pairs of queries and objects for every image."""
        return [_match_at_least_cost(layer, targets) for layer in layers]


@torch.no_grad()
def _match_at_least_cost(prediction: Prediction, targets: Sequence[Target]) -> list[MatchedPairs]:
    pairs = []
    for logits, boxes, target in zip(prediction.logits.float(), prediction.boxes.float(), targets, strict=True):
        probability = logits[:, target.labels].sigmoid()  # [N, G]
        as_object = 0.25 * (1 - probability) ** 2 * -(probability + 1e-8).log()
        as_background = 0.75 * probability**2 * -(1 - probability + 1e-8).log()
        distance = torch.cdist(boxes, target.boxes, p=1)
        overlap = generalized_box_iou(to_corners(boxes), to_corners(target.boxes))
        cost = 2 * (as_object - as_background) + 5 * distance - 2 * overlap
        # NaN costs come from NaN predictions; the guard of the loss reports those
        found = linear_sum_assignment(cost.nan_to_num(nan=1e6).cpu().numpy())
        pairs.append(MatchedPairs(*(torch.from_numpy(index).to(logits.device) for index in found)))
    return pairs
