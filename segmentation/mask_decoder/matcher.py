"""One query for every object: the assignment of least cost (DETR, arXiv:2005.12872)."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


class Weights(NamedTuple):
    """Weights of the terms, both in the assignment and in the loss."""

    mask: float
    dice: float
    label: float


class Match(NamedTuple):
    """Matched queries and, in the same order, their objects; both int64 [M]."""

    queries: Tensor
    objects: Tensor


@torch.no_grad()
def match(
    logits: Tensor, class_logits: Tensor, masks: Tensor, labels: Tensor, valid: Tensor, weights: Weights
) -> Match:
    """Assign queries to the objects of one image.

    Args:
        logits: Mask logits at P points, float32 [Q, P].
        class_logits: [Q, K+1], the last for "no object".
        masks: The objects at the same points, 0…1, float32 [G, P].
        labels: int64 [G].
        valid: 1 where the image is labeled, 0 elsewhere, float32 [P]; the others do not count.
        weights: Of the three terms of the cost.
    """
    pixels = valid.sum().clamp_min(1)
    inside, outside = F.softplus(-logits) * valid, F.softplus(logits) * valid  # loss where a point is in, or out
    mask_cost = (inside @ masks.T + outside @ (1 - masks).T) / pixels  # [Q, G]
    probability, masks = logits.sigmoid() * valid, masks * valid
    areas = probability.sum(1)[:, None] + masks.sum(1)[None]
    dice_cost = 1 - (2 * probability @ masks.T + 1) / (areas + 1)
    label_cost = -class_logits.softmax(-1)[:, labels]
    cost = weights.mask * mask_cost + weights.dice * dice_cost + weights.label * label_cost
    # the guard of the loss reports a diverged model; the assignment must only not raise
    rows, columns = linear_sum_assignment(cost.nan_to_num(1e8, 1e8, -1e8).cpu().numpy())
    device = logits.device
    return Match(torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device))
