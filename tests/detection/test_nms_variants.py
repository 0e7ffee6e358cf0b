"""Soft-NMS in rounds against the loop that defines it, one box at a time."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from pe_spatial.detection import nms as module
from pe_spatial.detection.nms import Suppression, overlapping_pairs

SOFT = [
    Suppression("linear", 0.5),
    Suppression("quad", 0.7, 0.5),
    Suppression("quad", 0.3, 2.0),
    Suppression("gaussian", scale=0.5),
]


def iou(a, b):
    inside = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0).prod()
    return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)


def one_by_one(boxes, scores, labels, how):
    """Soft-NMS by its definition in float64: take the best box, lower the scores of its class, forget the hopeless."""
    boxes, scores, labels = boxes.double().numpy(), scores.double().numpy().copy(), labels.numpy()
    left = [i for i in range(len(scores)) if scores[i] > how.min_score]
    order = []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        order.append(best)
        for other in left:
            u = iou(boxes[best], boxes[other]) if labels[best] == labels[other] else 0.0
            if how.method == "gaussian":
                scores[other] *= np.exp(-(u**2) / how.scale)
            elif u > how.threshold:
                scores[other] *= (1 - u) ** (how.scale if how.method == "quad" else 1)
        left = [i for i in left if scores[i] > how.min_score]
    return order, scores[order]


def crowd(number, classes=3, places=6, seed=0):
    """Boxes that gather at a few places, so that each has many neighbors."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(places, 2, generator=generator)[torch.randint(places, (number,), generator=generator)] * 300
    corner = corner + torch.randn(number, 2, generator=generator) * 8
    size = 60 + torch.rand(number, 2, generator=generator) * 30
    scores = torch.rand(number, generator=generator)
    return torch.cat([corner, corner + size], 1), scores, torch.randint(classes, (number,), generator=generator)


@pytest.mark.parametrize("how", SOFT, ids=lambda how: f"{how.method}-{how.threshold}-{how.scale}")
@pytest.mark.parametrize(("number", "classes", "places"), [(120, 3, 6), (60, 1, 1), (40, 40, 2)])
def test_rounds_are_the_loop(how, number, classes, places):
    boxes, scores, labels = crowd(number, classes, places)
    order, expected = one_by_one(boxes, scores, labels, how)
    keep, found = how(boxes, scores, labels)
    assert keep.tolist() == order
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5)


def test_a_chain_of_overlaps_is_settled_in_order():
    """Each box overlaps the next only: the second is lowered by the first, and the third by the lowered second."""
    x = torch.arange(12) * 4.0
    boxes = torch.stack([x, torch.zeros(12), x + 20, torch.full((12,), 20.0)], 1)
    scores = torch.linspace(0.9, 0.4, 12)
    how = Suppression("quad", 0.6, 0.5)
    order, expected = one_by_one(boxes, scores, torch.zeros(12, dtype=torch.int64), how)
    keep, found = how(boxes, scores, torch.zeros(12, dtype=torch.int64))
    assert keep.tolist() == order
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_equal_scores_and_equal_boxes():
    """Copies of one box: quad takes all but the first to 0, and gaussian lowers them one after the other."""
    boxes, labels = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1), torch.zeros(4, dtype=torch.int64)
    keep, _ = Suppression("quad", 0.7, 0.5)(boxes, torch.full((4,), 0.8), labels)
    assert keep.tolist() == [0]
    keep, scores = Suppression("gaussian", scale=0.5)(boxes, torch.full((4,), 0.8), labels)
    assert keep.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(scores, 0.8 * torch.exp(torch.tensor([0.0, -2, -4, -6])))


def test_hard_suppression_is_torchvisions():
    boxes, scores, labels = crowd(100, classes=1)
    keep, found = Suppression("nms", 0.5)(boxes, scores, labels)
    assert torch.equal(keep, nms(boxes, scores, 0.5))
    assert torch.equal(found, scores[keep])


@pytest.mark.parametrize("how", [*SOFT, Suppression("nms")], ids=lambda how: how.method)
def test_limits(how):
    far = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]])
    scores, labels = torch.tensor([0.3, 0.9, 0.5]), torch.tensor([0, 0, 1])
    keep, found = how(far, scores, labels)  # no two of a class overlap
    assert keep.tolist() == [1, 2, 0]
    torch.testing.assert_close(found, torch.tensor([0.9, 0.5, 0.3]))
    keep, found = how(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64))
    assert keep.tolist() == found.tolist() == []


def test_order_of_the_boxes_does_not_matter():
    boxes, scores, labels = crowd(150)
    shuffle = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    how = Suppression("quad")
    keep, found = how(boxes, scores, labels)
    again, same = how(boxes[shuffle], scores[shuffle], labels[shuffle])
    assert torch.equal(shuffle[again], keep)
    torch.testing.assert_close(found, same)


def test_blocks_do_not_change_the_pairs(monkeypatch):
    boxes, _, labels = crowd(90, classes=5)
    whole = overlapping_pairs(boxes, labels, 0.3)
    monkeypatch.setattr(module, "_BLOCK", 200)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 1)
    parts = overlapping_pairs(boxes, labels, 0.3)
    assert len(whole.source) > 200

    def as_set(pairs):
        return {(int(i), int(j)): float(v) for i, j, v in zip(*pairs, strict=True)}

    assert as_set(parts) == as_set(whole)
    assert len(as_set(whole)) == len(whole.source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cubic"}, "suppression 'cubic' is not one of nms, linear, quad, gaussian"),
        ({"threshold": 70}, "threshold 70 is not an IoU"),
        ({"scale": 0}, "scale 0 must be above 0"),
        ({"min_score": 1}, "min_score 1 is not a score below 1"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Suppression(**options)
