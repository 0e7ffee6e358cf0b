"""From masks and classes of queries to pixels, objects and segments of one image."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.common.parts import unpad
from pe_spatial.data import boxes_of_masks

Segment = dict[str, Any]
Resize = Callable[[Tensor], Tensor]

_CHUNK = 16  # masks that are enlarged at a time


def semantic_scores(logits: Tensor, class_logits: Tensor) -> Tensor:
    """Scores [B, K, h, w]: every query votes for its classes where its mask is (MaskFormer, arXiv:2107.06278).

    Args:
        logits: [B, Q, h, w].
        class_logits: [B, Q, K+1].
    """
    classes = class_logits.float().softmax(-1)[..., :-1]
    return torch.einsum("bqhw,bqk->bkhw", logits.float().sigmoid(), classes)


def frame_resize(sample: BaseDataElement, padded: tuple[int, int]) -> Resize:
    """A function from mask logits [M, h', w'] to those in the original image, [M, H, W].

    Args:
        sample: See `unpad`.
        padded: (H, W) of the model's input.
    """

    def resize(logits: Tensor) -> Tensor:
        whole = F.interpolate(logits[None].float(), padded, mode="bilinear", align_corners=False)
        return unpad(sample, whole[0])

    return resize


def instances_of(
    logits: Tensor, class_logits: Tensor, things: Collection[int], resize: Resize, most: int
) -> InstanceData:
    """The objects of one image, best first.

    Every pair of a query and a countable class is a candidate. Its score is the probability of the class times the mean
    probability of the mask inside itself (Mask2Former).

    Args:
        logits: [Q, h, w].
        class_logits: [Q, K+1].
        things: Labels of countable classes.
        resize: See `frame_resize`.
        most: Candidates that are kept.

    Returns:
        `bboxes` [N, 4] xyxy, `labels` [N], `scores` [N] and `masks` bool [N, H, W], without empty masks.
    """
    names = torch.tensor(sorted(things), device=logits.device)
    classes = class_logits.float().softmax(-1)[:, names]  # [Q, T]
    scores, flat = classes.flatten().topk(min(most, classes.numel()))
    queries, labels = flat // len(names), names[flat % len(names)]
    masks, certainty = [], []
    for chunk in logits[queries].split(_CHUNK):
        large = resize(chunk)  # [n, H, W]
        inside = large > 0
        masks.append(inside)
        certainty.append((large.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1))
    mask, scores = torch.cat(masks), scores * torch.cat(certainty)
    order = scores.argsort(descending=True)
    order = order[mask[order].flatten(1).any(1)]
    mask = mask[order]
    return InstanceData(bboxes=boxes_of_masks(mask), labels=labels[order], scores=scores[order], masks=mask)


def panoptic_of(
    logits: Tensor,
    class_logits: Tensor,
    things: Collection[int],
    resize: Resize,
    least_score: float = 0.8,
    least_visible: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Every pixel of one image in at most one segment.

    Each pixel goes to the query with the largest probability of its class times that of its mask at the pixel, and
    belongs to it where that mask is on (above one half). A query of which less than `least_visible` is left so is
    dropped; areas of one class that is not countable are joined.

    Args:
        logits: [Q, h, w].
        class_logits: [Q, K+1].
        things: Labels of countable classes.
        resize: See `frame_resize`.
        least_score: Probability of its class below which a query does not take part.
        least_visible: Share of a mask.

    Returns:
        Segment ids int32 [H, W], 0 for none, and {id, label, score, area, is_thing} of each segment, ids from 1.
    """
    scores, labels = class_logits.float().softmax(-1).max(-1)
    kept = (labels < class_logits.shape[-1] - 1) & (scores >= least_score)
    scores, labels, logits = scores[kept], labels[kept], logits[kept]
    frame = resize(logits[:1] if len(logits) else class_logits.new_zeros(1, 1, 1)).shape[-2:]
    best = torch.zeros(frame, device=logits.device)
    winner = torch.full(frame, -1, device=logits.device)
    insides = []
    for number, (score, mask) in enumerate(zip(scores, logits, strict=True)):  # one at a time: Q masks may not fit
        probability = resize(mask[None])[0].sigmoid()
        insides.append(probability >= 0.5)
        better = score * probability > best
        best = torch.where(better, score * probability, best)
        winner[better] = number
    ids = torch.zeros(frame, dtype=torch.int32, device=logits.device)
    segments: dict[Any, Segment] = {}
    for number, (score, label, inside) in enumerate(zip(scores.tolist(), labels.tolist(), insides, strict=True)):
        visible = inside & (winner == number)
        area, whole = int(visible.sum()), int(inside.sum())
        if area == 0 or area < least_visible * whole:
            continue
        is_thing = label in things
        new = {"id": len(segments) + 1, "label": label, "score": score, "area": 0, "is_thing": is_thing}
        segment = segments.setdefault(("thing", number) if is_thing else label, new)
        segment["area"] += area
        segment["score"] = max(segment["score"], score)
        ids[visible] = segment["id"]
    return ids, list(segments.values())
