"""From perfect queries to perfect scores, and panoptic quality at three points and against its definition."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement

from pe_spatial.common.errors import ConfigError
from pe_spatial.segmentation import PanopticMetric
from pe_spatial.segmentation.mask_decoder.postprocess import Frame, instances_of, panoptic_of, semantic_scores
from pe_spatial.segmentation.panoptic_matching import Truth, panoptic_quality, tally

META = {"classes": ("wall", "floor", "disc"), "is_thing": (False, False, True)}
THINGS = frozenset({2})


def scene(size=(12, 16)):
    """Label map and two discs of which the second is a single pixel."""
    labels = torch.zeros(1, *size, dtype=torch.int64)
    labels[:, 6:] = 1
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, 2:9, 3:8] = masks[1, 10, 12] = True
    labels[0][masks.any(0)] = 2
    return labels, torch.tensor([2, 2]), masks


def queries(size=(12, 16), wrong=(0, 0, 0)):
    """Logits of queries that say exactly what `scene` is, and of two that say nothing."""
    labels, thing_labels, masks = scene(size)
    truth = torch.cat([labels == torch.tensor([0, 1])[:, None, None], masks, torch.zeros(2, *size, dtype=torch.bool)])
    classes = torch.cat([torch.tensor([0, 1]), thing_labels, torch.tensor([3, 3])])
    return (truth.float() * 2 - 1) * 20, torch.nn.functional.one_hot(classes, 4).float() * 20


def sample(predicted, segments, labels, things=None, masks=None, crowd=None):
    element = {"pred_panoptic": {"data": predicted[None]}, "segments": segments, "gt_sem_seg": {"data": labels}}
    if masks is not None:
        element["gt_instances"] = {"labels": things, "masks": masks}
    if crowd is not None:
        element["ignored_instances"] = {"masks": crowd, "labels": torch.full((len(crowd),), 2)}
    return {**element, "img_path": "a.jpg"}


def score(*samples, meta=META):
    metric = PanopticMetric()
    metric.dataset_meta = meta
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def same(logits):
    """The picture of which the maps have every pixel."""
    size = tuple(logits.shape[-2:])
    return Frame(BaseDataElement(metainfo={"img_shape": size, "ori_shape": size}), size)


# --- what queries become ----------------------------------------------------------------------------------------------
def test_perfect_queries_become_the_scene():
    logits, class_logits = queries()
    labels, things, masks = scene()
    assert torch.equal(semantic_scores(logits[None], class_logits[None]).argmax(1), labels)
    found = instances_of(logits, class_logits, THINGS, same(logits), most=10)
    good = found.scores > 0.5
    assert found.labels[good].tolist() == [2, 2]
    assert {tuple(box) for box in found.bboxes[good].tolist()} == {(3, 2, 8, 9), (12, 10, 13, 11)}
    ids, segments = panoptic_of(logits, class_logits, THINGS, same(logits))
    assert ids.dtype == torch.int32 and (ids > 0).all()
    assert sorted(each["label"] for each in segments) == [0, 1, 2, 2]
    assert all(each["area"] == int((ids == each["id"]).sum()) for each in segments)
    assert score(sample(ids, segments, labels, things, masks)) == {
        f"panoptic/{name}{group}": pytest.approx(100)
        for name in ("PQ", "SQ", "RQ")
        for group in ("", "_things", "_stuff")
    }


def test_areas_of_one_stuff_class_are_joined_and_things_are_not():
    logits = torch.full((2, 4, 4), -20.0)
    logits[0, :2], logits[1, 2:] = 20, 20
    for label, count in ((1, 1), (2, 2)):
        class_logits = torch.nn.functional.one_hot(torch.tensor([label, label]), 4).float() * 20
        ids, segments = panoptic_of(logits, class_logits, THINGS, same(logits))
        assert len(segments) == count == int(ids.max()) and sum(each["area"] for each in segments) == 16


def test_a_query_that_is_mostly_covered_is_dropped():
    logits = torch.full((2, 4, 4), 5.0)
    logits[1, :, 0] = 20  # the second covers all, and is surer in one column
    logits[1, :, 1:] = 1
    class_logits = torch.nn.functional.one_hot(torch.tensor([0, 2]), 4).float() * 20
    ids, segments = panoptic_of(logits, class_logits, THINGS, same(logits), least_visible=0.5)
    assert [each["label"] for each in segments] == [0] and int((ids > 0).sum()) == 12
    assert panoptic_of(logits, class_logits - 100, THINGS, same(logits), least_score=2)[1] == []  # nothing takes part


def test_no_query_takes_part():
    logits = torch.zeros(2, 4, 4)
    ids, segments = panoptic_of(logits, torch.tensor([[0.0, 0, 0, 9]] * 2), THINGS, same(logits))
    assert segments == [] and not ids.any()


def test_masks_come_back_to_the_original_image():
    logits = torch.full((1, 4, 6), -9.0)
    logits[0, :2, :3] = 9
    frame = Frame(BaseDataElement(metainfo={"img_shape": (16, 24), "ori_shape": (8, 12)}), (32, 48))
    found = frame.resize(logits)
    assert found.shape == (1, 8, 12) and (found > 0).float().mean() > 0.8  # the quarter that is image is all mask


# --- three points -----------------------------------------------------------------------------------------------------
def test_nothing_found_and_everything_wrong_score_zero():
    labels, things, masks = scene()
    empty = torch.zeros(12, 16, dtype=torch.int32)
    assert score(sample(empty, [], labels, things, masks))["panoptic/PQ"] == 0
    swapped = [{"id": 1, "label": 2}]
    assert score(sample(empty + 1, swapped, labels, things, masks))["panoptic/PQ"] == 0


def test_by_hand():
    """Wall of 6 pixels found as 8, floor of 4 found as 2; IoU 6/8, and 2/4, which is no match."""
    labels = torch.tensor([[[0, 0, 0, 0, 0, 0, 1, 1, 1, 1]]])
    predicted = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 2, 2]], dtype=torch.int32)
    found = score(sample(predicted, [{"id": 1, "label": 0}, {"id": 2, "label": 1}], labels))
    assert found["panoptic/SQ"] == pytest.approx((75 + 0) / 2)
    assert found["panoptic/RQ"] == pytest.approx((100 + 0) / 2)
    assert found["panoptic/PQ"] == pytest.approx(75 / 2)
    assert "panoptic/PQ_things" in found and np.isnan(found["panoptic/PQ_things"])


def test_what_is_unknown_counts_neither_for_nor_against():
    labels = torch.tensor([[[0, 0, 0, 0, 255, 255, 255, 255]]])
    segments = [{"id": 1, "label": 0}, {"id": 2, "label": 1}]
    predicted = torch.tensor([[1, 1, 1, 1, 1, 1, 2, 2]], dtype=torch.int32)
    assert score(sample(predicted, segments, labels))["panoptic/PQ"] == pytest.approx(100)  # floor: all of it unknown
    half = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2]], dtype=torch.int32)  # floor: 4 of 5 pixels unknown
    assert score(sample(half, segments, labels))["panoptic/PQ"] == pytest.approx(75)
    crowd = torch.zeros(1, 1, 8, dtype=torch.bool)
    crowd[..., :4] = True
    none = torch.zeros(0, 1, 8, dtype=torch.bool)
    discs = sample(
        torch.ones_like(predicted),
        [{"id": 1, "label": 2}],
        labels + 2 * (labels == 0),
        torch.zeros(0).long(),
        none,
        crowd,
    )
    with pytest.raises(ConfigError, match="none of the 1 images has a segment"):
        score(discs)


# --- the definition ---------------------------------------------------------------------------------------------------
def naive(predicted, classes, truth, labels, num_classes):
    """PQ of one image by the formulas of the paper, pixel sets as Python sets."""
    pixels = {}
    for name, ids in (("p", predicted), ("t", truth)):
        for place, number in enumerate(ids.flatten().tolist()):
            pixels.setdefault((name, number), set()).add(place)
    void = pixels.get(("t", 0), set())
    result = []
    for label in range(num_classes):
        mine = [pixels[("p", n)] for n, c in classes.items() if c == label and ("p", n) in pixels]
        theirs = [pixels[("t", n + 1)] for n, c in enumerate(labels) if c == label and ("t", n + 1) in pixels]
        pairs = [(a, b, len(a & b) / len((a - void) | b)) for a in mine for b in theirs]
        matched = [(a, b, iou) for a, b, iou in pairs if iou > 0.5]
        false = [a for a in mine if all(a is not m[0] for m in matched) and len(a & void) <= 0.5 * len(a)]
        missed = [b for b in theirs if all(b is not m[1] for m in matched)]
        total = len(matched) + (len(false) + len(missed)) / 2
        result.append(100 * sum(m[2] for m in matched) / total if total else float("nan"))
    return result


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_definition(seed):
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(np.kron(rng.integers(0, 6, (4, 5)), np.ones((4, 4), int)))
    predicted = truth.clone()
    noise = torch.from_numpy(rng.random(truth.shape) < 0.25)
    predicted[noise] = torch.from_numpy(rng.integers(0, 6, int(noise.sum())))
    labels = rng.integers(0, 3, 5).tolist()
    classes = {n + 1: label if rng.random() < 0.8 else int(rng.integers(0, 3)) for n, label in enumerate(labels)}
    segments = [{"id": n, "label": label} for n, label in classes.items()]
    known = Truth(truth, torch.tensor(labels), torch.zeros(5, dtype=torch.bool))
    found = panoptic_quality(tally(predicted, segments, known, 3))[0]
    np.testing.assert_allclose(found.numpy(), naive(predicted, classes, truth, labels, 3))


def test_images_are_summed_before_they_are_averaged():
    labels = torch.tensor([[[0, 0, 1, 1]]])
    good = sample(torch.tensor([[1, 1, 2, 2]]).int(), [{"id": 1, "label": 0}, {"id": 2, "label": 1}], labels)
    poor = sample(torch.tensor([[1, 1, 1, 0]]).int(), [{"id": 1, "label": 0}], labels)
    # wall: IoU 1 and 2/3, both matched; floor: matched once, missed once
    assert score(good, poor)["panoptic/PQ"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1 / 1.5) / 2)


# --- errors -----------------------------------------------------------------------------------------------------------
def test_mistakes_are_named():
    labels, things, masks = scene()
    ids = torch.ones(12, 16, dtype=torch.int32)
    one = sample(ids, [{"id": 1, "label": 0}], labels, things, masks)
    with pytest.raises(ConfigError, match="needs 'is_thing'"):
        score(one, meta={"classes": META["classes"]})
    with pytest.raises(ConfigError, match="add 'panoptic' to model.outputs"):
        score({"img_path": "a.jpg", "gt_sem_seg": {"data": labels}})
    with pytest.raises(ConfigError, match="masks but no labels, and a crowd counts for its own class alone"):
        score({**one, "ignored_instances": {"masks": masks}})
    with pytest.raises(ConfigError, match=r"a.jpg: the prediction is \(12, 16\) .* \(6, 16\); load annotations after"):
        score(sample(ids, [], labels[:, :6]))


# --- what it explains -------------------------------------------------------------------------------------------------
def test_segments_that_match_another_class_are_confused_and_the_image_is_drawn():
    labels, things, masks = scene()
    predicted = labels[0] + 1  # the discs are one segment, which is wrong
    found = [{"id": 1, "label": 1}, {"id": 2, "label": 1}, {"id": 3, "label": 2}]  # the wall is called floor
    metric = PanopticMetric()
    metric.dataset_meta = META
    metric.process({}, [sample(predicted, found, labels, things, masks)])
    metric.evaluate(1)
    known = metric.explanation
    # the wall is taken for floor, the floor is found, the large disc too, and the small one is missed
    assert known.confusion.counts.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert list(known.classes.counts) == [1, 1, 2]
    (case,) = known.ranking.best
    assert case.score == pytest.approx(float(panoptic_quality_of(metric)))
    picture = case.draw(torch.zeros(3, 12, 16, dtype=torch.uint8))
    assert picture.shape[2] == 2 * 640 + 8


def panoptic_quality_of(metric):
    values = list(metric.explanation.classes.values["PQ"])
    return np.nanmean(values) / 100
