"""Who answers for an object: by overlap, and one to one."""

from itertools import permutations

import pytest
import torch
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from pe_spatial.detection.deta.matching import IoUMatching, OneToOneMatching, Target
from pe_spatial.detection.deta.transformer import Prediction


def centers(*corners):
    return box_convert(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4), "xyxy", "cxcywh")


def prediction(references, boxes=None, logits=None):
    references = references[None]
    boxes = references if boxes is None else boxes[None]
    return Prediction(torch.zeros(1, references.shape[1], 3) if logits is None else logits[None], boxes, references)


def objects(boxes, labels=None):
    return [Target(boxes, torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels))]


def as_set(pairs):
    return set(zip(pairs.predictions.tolist(), pairs.objects.tolist(), strict=True))


def test_queries_from_an_overlap_of_six_tenths_on_and_the_best_of_every_object():
    truth = centers([0, 0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9])
    queries = centers(
        [0, 0, 0.4, 0.4],  # 1.0 with the first
        [0, 0, 0.4, 0.3],  # 0.75
        [0, 0, 0.4, 0.2],  # 0.5: nobody's
        [0.5, 0.5, 0.6, 0.6],  # 0.06 with the second, its best
        [0.95, 0.95, 1, 1],
    )
    queries = torch.cat([queries, centers([0.95, 0, 1, 0.05]).expand(20, -1)])  # a quarter may be matched
    ((pairs,), same) = IoUMatching().decoder([prediction(queries)] * 2, objects(truth))
    assert as_set(pairs) == {(0, 0), (1, 0), (3, 1)}
    assert as_set(same[0]) == as_set(pairs)  # the start of the decoder decides for all its layers


def test_tokens_are_matched_by_their_anchors():
    truth = centers([0, 0, 0.4, 0.4])
    anchors = centers([0, 0, 0.4, 0.4], [0, 0, 0.4, 0.26], [0.5, 0.5, 1, 1])  # overlaps 1, 0.65 and 0
    predicted = prediction(anchors, boxes=truth.expand(3, -1))
    (pairs,) = IoUMatching().encoder(predicted, objects(truth))
    assert as_set(pairs) == {(0, 0)}


def test_the_four_best_answer_for_an_object():
    truth = centers([0, 0, 0.5, 0.5])
    heights = 0.5 - 0.01 * torch.randperm(10, generator=torch.Generator().manual_seed(0))
    queries = torch.stack([centers([0, 0, 0.5, float(h)])[0] for h in heights] + [centers([0.9, 0.9, 1, 1])[0]] * 40)
    ((pairs,),) = IoUMatching().decoder([prediction(queries)], objects(truth))
    best = box_iou(box_convert(truth, "cxcywh", "xyxy"), box_convert(queries, "cxcywh", "xyxy"))[0].topk(4).indices
    assert as_set(pairs) == {(int(i), 0) for i in best}


def test_a_quarter_of_the_queries_is_matched_at_most():
    queries = centers([0, 0, 0.5, 0.5]).expand(8, -1)
    ((pairs,),) = IoUMatching().decoder([prediction(queries)], objects(centers([0, 0, 0.5, 0.5])))
    assert len(pairs.objects) == 2


@pytest.mark.parametrize("matching", [IoUMatching(), OneToOneMatching()])
def test_an_image_without_objects_has_no_pairs(matching):
    predicted = prediction(torch.rand(6, 4))
    for pairs in (*matching.encoder(predicted, objects(torch.zeros(0, 4))),):
        assert len(pairs.predictions) == len(pairs.objects) == 0
    ((pairs,),) = matching.decoder([predicted], objects(torch.zeros(0, 4)))
    assert pairs.predictions.dtype == torch.int64 and len(pairs.predictions) == 0


@pytest.mark.parametrize("matching", [IoUMatching(), OneToOneMatching()])
def test_more_objects_than_predictions(matching):
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(9, 4, generator=generator) * 0.5 + 0.1
    ((pairs,),) = matching.decoder([prediction(torch.rand(4, 4, generator=generator) * 0.5 + 0.1)], objects(truth))
    assert len(pairs.objects) > 0
    assert pairs.predictions.max() < 4 and pairs.objects.max() < 9


def test_one_to_one_is_the_cheapest_of_all_matchings():
    generator = torch.Generator().manual_seed(0)
    boxes, truth = (torch.rand(n, 4, generator=generator) * 0.4 + 0.2 for n in (5, 3))
    logits = torch.randn(5, 3, generator=generator)
    labels = [2, 0, 2]
    p = logits.sigmoid().double()
    focal = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    corners = [box_convert(b, "cxcywh", "xyxy") for b in (boxes, truth)]
    cost = 2 * focal[:, labels] + 5 * torch.cdist(boxes, truth, p=1) - 2 * generalized_box_iou(*corners)
    best = min(permutations(range(5), 3), key=lambda rows: sum(cost[row, i] for i, row in enumerate(rows)))
    ((pairs,),) = OneToOneMatching().decoder([prediction(boxes, boxes, logits)], objects(truth, labels))
    assert as_set(pairs) == {(row, i) for i, row in enumerate(best)}


def test_layers_are_matched_one_to_one_each_on_its_own():
    truth = centers([0, 0, 0.4, 0.4])
    far, near = centers([0.5, 0.5, 0.9, 0.9]), truth
    first, second = (prediction(torch.cat(boxes)) for boxes in ([near, far], [far, near]))
    ((one,), (two,)) = OneToOneMatching().decoder([first, second], objects(truth))
    assert as_set(one) == {(0, 0)}
    assert as_set(two) == {(1, 0)}


def test_numbers_that_are_none_do_not_stop_the_matching():
    predicted = prediction(torch.rand(4, 4), logits=torch.full((4, 3), float("nan")))
    ((pairs,),) = OneToOneMatching().decoder([predicted], objects(torch.rand(2, 4)))
    assert len(pairs.objects) == 2  # the loss will be none, and that is reported
