"""mIoU against mmseg's, against numbers computed by hand, and at its ends."""

import math

import pytest
import torch
from mmengine.structures import PixelData

from pe_spatial.common.errors import ConfigError
from pe_spatial.segmentation.explanation import label_pairs
from pe_spatial.segmentation.metrics import MeanIoUMetric, class_areas

mmseg_evaluation = pytest.importorskip("mmseg.evaluation")


def sample(prediction, target):
    return {
        "img_path": "x.jpg",
        "pred_sem_seg": {"data": torch.as_tensor(prediction)[None]},
        "gt_sem_seg": {"data": torch.as_tensor(target)[None]},
    }


def score(metric, samples, classes):
    metric.dataset_meta = {"classes": classes}
    for item in samples:
        metric.process({}, [item])
    return metric.compute_metrics(metric.results)


def test_the_numbers_are_those_of_mmseg():
    generator = torch.Generator().manual_seed(0)
    samples = []
    for height in (30, 41, 7):
        target = torch.randint(0, 6, (height, 25), generator=generator)
        prediction = torch.where(torch.rand(height, 25, generator=generator) < 0.6, target, target.roll(1))
        target[torch.rand(height, 25, generator=generator) < 0.2] = 255
        samples.append(sample(prediction, target))
    classes = tuple("abcdefg")  # g never occurs
    theirs = score(mmseg_evaluation.IoUMetric(), samples, classes)
    ours = score(MeanIoUMetric(), samples, classes)
    assert {name: round(value, 2) for name, value in ours.items()} == pytest.approx(theirs, abs=0.006)
    assert 30 < ours["mIoU"] < 80


def test_a_case_computed_by_hand():
    target = [[0, 0, 0, 1], [1, 1, 255, 255]]
    prediction = [[0, 0, 1, 1], [1, 2, 0, 1]]
    metrics = score(MeanIoUMetric(), [sample(prediction, target)], ("a", "b", "c", "d"))
    # a: 2 of 3 labeled and 2 predicted; b: 2 of 3 and 3; c: predicted only; d: absent, and in no mean
    assert metrics["mIoU"] == pytest.approx(100 * (2 / 3 + 2 / 4 + 0) / 3)
    assert metrics["mAcc"] == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    assert metrics["aAcc"] == pytest.approx(100 * 4 / 6)


def test_the_truth_scores_100_and_a_wrong_answer_0():
    target = torch.randint(0, 3, (20, 20), generator=torch.Generator().manual_seed(1))
    target[0] = 255
    perfect = score(MeanIoUMetric(), [sample(target.clamp(max=2), target)], ("a", "b", "c"))
    assert perfect == {"mIoU": 100, "mAcc": 100, "aAcc": 100}
    wrong = score(MeanIoUMetric(), [sample((target + 1) % 3, target)], ("a", "b", "c"))
    assert wrong == {"mIoU": 0, "mAcc": 0, "aAcc": 0}


def test_pairs_are_those_of_all_pixels():
    generator = torch.Generator().manual_seed(2)
    rough = torch.randint(0, 5, (2, 40, 30), generator=generator).repeat_interleave(20, 1).repeat_interleave(20, 2)
    noise = torch.randint(0, 5, (2, 700, 700), generator=generator)  # as many runs as pixels
    for prediction, target in (rough, noise, rough[:, :1, :1]):
        target[:3, :100] = 255
        kept = target != 255
        counts = torch.bincount(5 * target[kept] + prediction[kept], minlength=25)
        pairs = label_pairs(prediction, target.to(torch.uint8), 5)
        assert torch.equal(pairs, torch.stack([counts.nonzero()[:, 0], counts[counts > 0]]))
        areas = [
            [(prediction[kept] == target[kept])[target[kept] == k].sum() for k in range(5)],
            [(prediction[kept] == k).sum() for k in range(5)],
            [(target[kept] == k).sum() for k in range(5)],
        ]
        assert torch.equal(class_areas(pairs, 5), torch.tensor(areas, dtype=torch.float64))
    with pytest.raises(ConfigError, match="photo: prediction 5 is outside 0…4"):
        label_pairs(torch.tensor([[5, 1]]), torch.tensor([[0, 1]]), 5, "photo")
    with pytest.raises(ConfigError, match="label 7 is outside"):
        label_pairs(torch.tensor([[5, 1]]), torch.tensor([[255, 7]]), 5)


def test_a_class_that_was_never_labeled_has_no_accuracy():
    metrics = score(MeanIoUMetric(), [sample([[0, 1]], [[0, 0]])], ("a", "b"))
    assert not math.isnan(metrics["mAcc"])
    assert metrics == pytest.approx({"mIoU": 25, "mAcc": 50, "aAcc": 50})


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([[0, 1]], [[0], [1]], r"x\.jpg: the prediction is \(1, 2\) \(H, W\) but the label map \(2, 1\)"),
        ([[0, 2]], [[0, 1]], r"x\.jpg: prediction 2 is outside 0…1, the classes of the dataset"),
        ([[0, 1]], [[0, 3]], r"x\.jpg: label 3 is outside 0…1"),
        ([[0, 1]], [[255, 255]], "none of the 1 label maps has a labeled pixel"),
    ],
)
def test_what_cannot_be_scored_says_why(prediction, target, message):
    with pytest.raises(ConfigError, match=message):
        score(MeanIoUMetric(), [sample(prediction, target)], ("a", "b"))


def test_a_missing_label_map_says_which_step_is_missing():
    without = {"img_path": "x.jpg", "pred_sem_seg": PixelData(data=torch.zeros(1, 2, 2))}
    with pytest.raises(ConfigError, match=r"x\.jpg: no label map; add LoadSegmentation"):
        score(MeanIoUMetric(), [without], ("a", "b"))


# --- what it explains -------------------------------------------------------------------------------------------------
def test_pixels_are_confused_as_counted_one_by_one():
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randint(0, 4, (2, 9, 7), generator=generator) for _ in range(3)]
    metric = MeanIoUMetric()
    score(metric, [sample(prediction, target) for prediction, target in maps], tuple("abcde"))
    expected = torch.zeros(5, 5, dtype=torch.int64)
    for prediction, target in maps:
        for p, t in zip(prediction.flatten(), target.flatten(), strict=True):
            expected[t, p] += 1
    known = metric.explanation
    assert known.confusion.counts.tolist() == expected.tolist()
    assert list(known.classes.counts) == expected.sum(1).tolist()
    assert known.classes.record()["IoU"]["e"] is None and 0 < known.classes.record()["IoU"]["a"] < 100


def test_images_are_ranked_by_their_own_miou_and_drawn():
    target = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 255]])
    predictions = {"right.jpg": target.clamp(max=1), "half.jpg": torch.zeros_like(target), "wrong.jpg": 1 - target % 2}
    metric = MeanIoUMetric()
    samples = [{**sample(prediction, target), "img_path": name} for name, prediction in predictions.items()]
    score(metric, samples, ("a", "b"))
    ends = metric.explanation.ranking
    assert [(case.path, round(case.score, 3)) for case in ends.best] == [("right.jpg", 1.0), ("half.jpg", 0.286)]
    assert [(case.path, case.score) for case in ends.worst] == [("wrong.jpg", 0.0)]
    picture = ends.worst[0].draw(torch.full((3, 2, 4), 120, dtype=torch.uint8))
    assert picture.dtype == torch.uint8 and picture.shape[0] == 3 and picture.shape[2] > 3 * 960  # three panels
