"""Each measure when perfect, degenerate, by hand and against an independent implementation; and the metric."""

import math

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from pe_spatial.common.errors import ConfigError, DivergedError
from pe_spatial.depth.metrics import (
    CROPS,
    MEASURES,
    DepthErrorMetric,
    align_median,
    align_scale_shift,
    depth_errors,
)


def sample(prediction, target, name="a.png", metric=True):
    element = BaseDataElement(metainfo={"img_path": name, "depth_is_metric": metric})
    element.set_field(PixelData(data=torch.as_tensor(prediction)[None].float()), "pred_depth", dtype=PixelData)
    element.set_field(PixelData(data=torch.as_tensor(target)[None].float()), "gt_depth", dtype=PixelData)
    return element.to_dict()


def evaluate(samples, batch=1, **options):
    metric = DepthErrorMetric(**{"depth_range": [0.001, 10], **options})
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples))


def pictures(count=5, seed=0, shape=(48, 64)):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        target = rng.uniform(0, 12, shape)  # some beyond the range
        target[rng.uniform(size=shape) < 0.3] = 0
        yield rng.uniform(0.0, 14, shape).astype(np.float32), target.astype(np.float32)


def reference(prediction, target, least, greatest):
    """Plain numpy in float64, one pixel after the other where that is clearest."""
    rows = [
        (min(max(float(p), least), greatest), float(t))
        for p, t in zip(prediction.ravel(), target.ravel(), strict=True)
        if least < float(t) < greatest
    ]
    p, t = np.array(rows, np.float64).T
    logs = np.array([math.log(a / b) for a, b in rows])
    ratios = np.array([max(a / b, b / a) for a, b in rows])
    return {
        "rmse": math.sqrt(sum((a - b) ** 2 for a, b in rows) / len(rows)),
        "rmse_log": math.sqrt((logs**2).mean()),
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "log10": np.mean(np.abs(np.log10(p) - np.log10(t))),
        "silog": 100 * math.sqrt((logs**2).mean() - logs.mean() ** 2),
        "delta1": (ratios < 1.25).mean(),
        "delta2": (ratios < 1.25**2).mean(),
        "delta3": (ratios < 1.25**3).mean(),
    }


def test_perfect():
    target = torch.rand(1000, dtype=torch.float64) + 0.5
    errors = depth_errors(target, target)
    assert errors == {name: pytest.approx(0.0 if m.lower_is_better else 1.0) for name, m in MEASURES.items()}


def test_by_hand():
    errors = depth_errors(torch.tensor([2.0, 1.0, 4.0, 3.0]), torch.tensor([1.0, 2.0, 4.0, 2.0]))
    assert errors["rmse"] == pytest.approx(math.sqrt(3 / 4))
    assert errors["abs_rel"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert errors["sq_rel"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)
    assert errors["rmse_log"] == pytest.approx(math.sqrt((2 * math.log(2) ** 2 + math.log(1.5) ** 2) / 4))
    assert errors["log10"] == pytest.approx((2 * math.log10(2) + math.log10(1.5)) / 4)
    logs = [math.log(2), -math.log(2), 0, math.log(1.5)]
    variance = sum(x * x for x in logs) / 4 - (sum(logs) / 4) ** 2
    assert errors["silog"] == pytest.approx(100 * math.sqrt(variance))
    assert (errors["delta1"], errors["delta2"], errors["delta3"]) == (0.25, 0.5, 0.5)


def test_degenerate_one_pixel_and_a_wrong_scale():
    one = depth_errors(torch.tensor([3.0]), torch.tensor([2.0]))
    assert one["rmse"] == 1 and one["silog"] == 0 and one["abs_rel"] == 0.5
    target = torch.rand(100, dtype=torch.float64) + 1
    doubled = depth_errors(2 * target, target)
    assert doubled["silog"] == pytest.approx(0, abs=1e-6)  # scale-invariant
    assert doubled["abs_rel"] == pytest.approx(1) and doubled["delta3"] == 0


def test_against_an_independent_implementation():
    images = list(pictures())
    result = evaluate([sample(p, t, f"{n}.png") for n, (p, t) in enumerate(images)])
    rows = [reference(p, t, 0.001, 10) for p, t in images]
    for name in MEASURES:
        assert result[f"depth/{name}"] == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-9)


def test_every_measure_moves_in_its_direction():
    target = torch.rand(500, dtype=torch.float64) * 5 + 1
    noise = torch.randn(500, dtype=torch.float64)
    good, bad = (depth_errors(target * torch.exp(s * noise), target) for s in (0.05, 0.5))
    for name, measure in MEASURES.items():
        assert (good[name] < bad[name]) == measure.lower_is_better, name


def test_the_result_does_not_depend_on_the_batch_size():
    samples = [sample(p, t) for p, t in pictures(6)]
    assert evaluate(samples, batch=1) == evaluate(samples, batch=4)


def test_the_mean_is_over_images_not_over_pixels():
    target = np.full((4, 4), 2.0)
    sparse = np.zeros((4, 4))
    sparse[0, 0] = 2.0
    result = evaluate([sample(target, target), sample(np.full((4, 4), 3.0), sparse)])
    assert result["depth/rmse"] == pytest.approx(0.5)


def test_range_is_strict_and_clamps_the_prediction():
    target = np.array([[0.0, 0.001, 10.0, 5.0]])
    result = evaluate([sample(np.array([[5.0, 5.0, 5.0, 500.0]]), target)])
    assert result["depth/rmse"] == pytest.approx(5.0)  # one pixel counts, 500 counts as 10


# --- crops ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("crop", "size", "box"),
    [
        ("nyu_eigen", (480, 640), (45, 471, 41, 601)),
        ("garg", (375, 1242), (153, 371, 44, 1197)),
        ("kitti_eigen", (375, 1242), (124, 342, 44, 1197)),
    ],
)
def test_crops_judge_nothing_outside_the_published_box(crop, size, box):
    target = np.full(size, 4.0, np.float32)
    prediction = np.full(size, 9.0, np.float32)
    prediction[box[0] : box[1], box[2] : box[3]] = 4.0
    assert evaluate([sample(prediction, target)], crop=crop)["depth/rmse"] == 0
    for y, x in ((box[0], box[2]), (box[1] - 1, box[3] - 1)):
        touched = prediction.copy()
        touched[y, x] = 5.0
        assert evaluate([sample(touched, target)], crop=crop)["depth/rmse"] > 0


def test_nyu_crop_refuses_other_frames():
    with pytest.raises(ValueError, match="defined for 480x640, but the depth map is 240x320"):
        CROPS["nyu_eigen"](240, 320)


# --- alignment --------------------------------------------------------------------------------------------------------
def test_alignments_undo_what_they_name():
    target = torch.rand(501, dtype=torch.float64) + 1
    assert torch.allclose(align_median(7 * target, target), target)
    assert torch.allclose(align_scale_shift(-3 * target + 5, target), target)


def test_scale_shift_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    p, t = rng.uniform(1, 2, 300), rng.uniform(1, 9, 300)
    solution, *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), t, rcond=None)
    aligned = align_scale_shift(torch.from_numpy(p), torch.from_numpy(t))
    assert np.allclose(aligned.numpy(), solution[0] * p + solution[1], rtol=1e-10)


def test_scale_shift_of_a_constant_is_the_mean():
    target = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    assert align_scale_shift(torch.full_like(target, 0.3), target).tolist() == [3.0, 3.0, 3.0]


def test_median_of_an_even_number_is_that_of_numpy():
    p, t = torch.tensor([1.0, 2, 3, 10]).double(), torch.tensor([1.0, 4, 5, 6]).double()
    assert torch.allclose(align_median(p, t), p * np.median(t.numpy()) / np.median(p.numpy()))


def test_median_alignment_needs_positive_depth():
    with pytest.raises(ValueError, match="median of the prediction is 0"):
        align_median(torch.zeros(3).double(), torch.ones(3).double())


@pytest.mark.parametrize("alignment", ["median", "scale_shift"])
def test_alignment_is_named_in_the_result_and_perfect_for_a_scaled_prediction(alignment):
    (_, target), *_ = pictures(1)
    result = evaluate([sample(0.01 * target, target, metric=False)], alignment=alignment)
    assert set(result) == {f"depth_{alignment}_aligned/{name}" for name in MEASURES}
    assert result[f"depth_{alignment}_aligned/rmse"] == pytest.approx(0, abs=1e-5)


def test_invalid_pixels_take_no_part_in_the_alignment():
    (prediction, target), *_ = pictures(1)
    spoiled = prediction.copy()
    spoiled[target == 0] = 1e6
    for alignment in ("median", "scale_shift"):
        assert evaluate([sample(prediction, target)], alignment=alignment) == evaluate(
            [sample(spoiled, target)], alignment=alignment
        )


# --- bad input --------------------------------------------------------------------------------------------------------
def test_a_relative_prediction_cannot_be_judged_as_metric():
    target = np.ones((3, 3))
    with pytest.raises(ConfigError, match="relative depth, which cannot be compared with meters; set alignment"):
        evaluate([sample(target, target, metric=False)])


def test_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"the prediction is \(2, 3\) \(H, W\) but the depth map \(3, 3\)"):
        evaluate([sample(np.ones((2, 3)), np.ones((3, 3)), "b.png")])


def test_a_prediction_that_is_not_finite_is_an_error():
    with pytest.raises(DivergedError, match="b.png: the prediction contains NaN"):
        evaluate([sample(np.full((2, 2), np.nan), np.ones((2, 2)), "b.png")])


def test_a_range_without_any_pixel_says_what_there_is():
    target = np.full((3, 3), 250.0)
    with pytest.raises(ValueError, match="2 depth maps hold measurements of 250 to 250 m"):
        evaluate([sample(target, target), sample(target, target)])
    with pytest.raises(ValueError, match="hold no measurement at all"):
        evaluate([sample(target, np.zeros((3, 3)))])


def test_images_without_a_valid_pixel_do_not_count():
    target = np.full((3, 3), 2.0)
    result = evaluate([sample(target + 1, target), sample(target, np.zeros((3, 3)))])
    assert result["depth/rmse"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "eigen"}, "crop='eigen' is not one of nyu_eigen, garg, kitti_eigen"),
        ({"alignment": "mean"}, "alignment='mean' is not one of median, scale_shift"),
        ({"depth_range": [0, 10]}, "0 < least < greatest"),
        ({"depth_range": [10, 1]}, "0 < least < greatest"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        DepthErrorMetric(**{"depth_range": [0.001, 10], **options})


# --- what it explains -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alignment", [None, "median"])
def test_images_are_ranked_by_their_relative_error_and_drawn(alignment):
    target = np.tile(np.linspace(1, 5, 40, dtype=np.float32), (30, 1))
    target[0] = 0  # not measured
    noise = np.random.default_rng(0).uniform(0.9, 1.1, target.shape).astype(np.float32)
    metric = DepthErrorMetric([0.001, 10], alignment=alignment)
    maps = {"a.png": target * noise**3, "b.png": target + 0.0, "c.png": target * noise, "d.png": target}
    for name, prediction in maps.items():
        metric.process(None, [sample(prediction, target * (name != "d.png"), name)])
    metric.evaluate(len(maps))
    ends = metric.explanation.ranking
    assert [case.path for case in [*ends.best, *ends.worst[::-1]]] == ["b.png", "c.png", "a.png"]  # d has no truth
    assert ends.best[0].score == pytest.approx(0, abs=1e-6) and ends.ranked == 3
    picture = ends.worst[0].draw(torch.zeros(3, 30, 40, dtype=torch.uint8))
    assert picture.dtype == torch.uint8 and picture.shape[2] > 4 * 640  # four panels
