"""What two views of an image agree on, as one list of detections."""

import torch
from mmengine.structures import InstanceData
from torchvision.ops import box_iou

from pe_spatial.data import encode_masks

_SAME = 0.5  # IoU of boxes of one class from which on they are of one object


def agree(one: InstanceData, other: InstanceData) -> InstanceData:
    """Detections of two views: the score of each is the mean of its scores in both, 0 in the view that lacks it.

    Detections of a class are of one object from an IoU of 0.5 on; the best of `one` choose first. A pair has the mean
    of its boxes, weighted by the scores, and the mask of the better. So weighted box fusion treats several models
    (Solovyev, Wang, Gabruseva, 2021): what only one of them sees counts less.

    Args:
        one: `bboxes` [N, 4], `labels` [N], `scores` [N], and where the model has masks `masks`: RLEs, or bool
            [N, H, W]; the result has RLEs.
        other: The same fields, in the same frame.
    """
    overlap = box_iou(one.bboxes.float(), other.bboxes.float()) * (one.labels[:, None] == other.labels)  # [N, M]
    partner = torch.full((len(one.scores),), -1)
    is_free = torch.ones(len(other.scores), dtype=torch.bool)
    for i in one.scores.argsort(descending=True, stable=True).tolist():
        strength = other.scores * is_free * (overlap[i] >= _SAME)
        if len(strength) and strength.max() > 0:
            partner[i] = strength.argmax()
            is_free[partner[i]] = False
    is_pair = partner >= 0
    return InstanceData.cat(
        [_joined(one[is_pair], other[partner[is_pair]]), _halved(one[~is_pair]), _halved(other[is_free])]
    )


def _joined(one: InstanceData, other: InstanceData) -> InstanceData:
    """One detection of every row of both."""
    share = (one.scores / (one.scores + other.scores)).float()[:, None]
    fields = {
        "bboxes": share * one.bboxes.float() + (1 - share) * other.bboxes.float(),
        "labels": one.labels,
        "scores": (one.scores.float() + other.scores.float()) / 2,
    }
    if "masks" in one:
        is_better = (one.scores >= other.scores).tolist()
        triples = zip(is_better, encode_masks(one.masks), encode_masks(other.masks), strict=True)
        fields["masks"] = [mine if better else theirs for better, mine, theirs in triples]
    return InstanceData(**fields)


def _halved(found: InstanceData) -> InstanceData:
    """The same with half of its scores."""
    fields = {"bboxes": found.bboxes.float(), "labels": found.labels, "scores": found.scores.float() / 2}
    return InstanceData(**fields, **({"masks": encode_masks(found.masks)} if "masks" in found else {}))
