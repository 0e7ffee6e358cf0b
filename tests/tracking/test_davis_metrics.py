import math

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.tracking.metrics import JFMetric, VideoScore, contour, contour_accuracy, region_similarity, score_folder
from pe_spatial.tracking.scores import ScoreTable, summarize


def disc(y, x, radius, size=(60, 80)):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def save(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)
    return str(path)


def test_perfect_disjoint_and_empty():
    a, b, nothing = disc(20, 20, 9), disc(40, 60, 9), np.zeros((60, 80), bool)
    for measure in (region_similarity, contour_accuracy):
        assert measure(a, a) == 1 and measure(nothing, nothing) == 1
        assert measure(a, b) == measure(a, nothing) == measure(nothing, a) == 0


def test_by_hand():
    truth, prediction = np.zeros((1000, 1000), bool), np.zeros((1000, 1000), bool)
    truth[100:200, 100:200] = True
    prediction[100:200, 150:250] = True
    assert region_similarity(prediction, truth) == pytest.approx(5000 / 15000)
    # the tolerance is ceil(0.008 * sqrt(2) * 1000) = 12: half of two sides and 12 pixels more, and the ends of a third
    found = np.count_nonzero(contour(prediction) & near(contour(truth), 12)) / np.count_nonzero(contour(prediction))
    assert contour_accuracy(prediction, truth) == pytest.approx(found)
    assert found == pytest.approx((2 * 62 + 2 * 12) / 400, abs=0.01)


def near(mask, radius):
    """Pixels within a radius of a mask, by the distance to each of its pixels."""
    result = np.zeros_like(mask)
    for y, x in zip(*mask.nonzero(), strict=True):
        window = slice(y - radius, y + radius + 1), slice(x - radius, x + radius + 1)
        rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        result[window] |= rows**2 + columns**2 <= radius**2
    return result


def test_contours_at_the_edges_of_the_frame():
    mask = np.zeros((4, 5), bool)
    mask[1:, 2:] = True
    expected = np.array([[0, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]], bool)
    assert np.array_equal(contour(mask), expected)
    assert not contour(np.ones((4, 5), bool)).any()


def test_statistics_by_hand():
    summary = summarize([1, 0.8, 0.6, 0.4, 0.2])
    assert summary.mean == pytest.approx(0.6) and summary.recall == pytest.approx(0.6)
    # quarters of five frames share their ends: (1 + 0.8) / 2 - (0.4 + 0.2) / 2
    assert summary.decay == pytest.approx(0.6)
    assert summarize([0.7] * 400).decay == pytest.approx(0)
    assert summarize(np.linspace(1, 0, 400)).decay == pytest.approx(0.75, abs=0.01)
    assert math.isnan(summarize([]).mean)


def record(tmp_path, truths, binary=False, prompts=(0,)):
    paths = [save(tmp_path / "truth" / f"{n:05d}.png", ids) for n, ids in enumerate(truths)]
    return {
        "video": "drawn",
        "frame_paths": paths,
        "annotation_paths": paths,
        "prompts": {n: {"path": paths[n], "binary": binary} for n in prompts},
        "binary": binary,
    }


def moving(frames=6):
    return [disc(20, 15 + 3 * n, 9) * 1 + disc(45, 60 - 3 * n, 9) * 2 for n in range(frames)]


def test_annotations_score_one_and_ends_do_not_count(tmp_path):
    truths = moving()
    metric = JFMetric()
    item = record(tmp_path, truths)
    metric.process(None, [{**item, "pred_track_ids": torch.from_numpy(np.stack(truths))}])
    assert {r["object"]: len(r["J"]) for r in metric.results} == {1: 4, 2: 4}
    scores = metric.compute_metrics(metric.results)
    assert scores["J&F"] == scores["J-recall"] == 1 and scores["F-decay"] == 0
    spoiled = [truths[0] * 0, *truths[1:-1], truths[-1] * 0]
    other = JFMetric()
    other.process(None, [{**item, "pred_track_ids": torch.from_numpy(np.stack(spoiled))}])
    assert other.results == metric.results


def test_global_numbers_are_means_over_objects(tmp_path):
    truths = moving()
    lost = [np.where(ids == 2, 0, ids) for ids in truths]
    metric = JFMetric()
    metric.process(None, [{**record(tmp_path, truths), "pred_track_ids": torch.from_numpy(np.stack(lost))}])
    assert metric.compute_metrics(metric.results)["J&F"] == pytest.approx(0.5)
    table = ScoreTable(metric.results)
    assert [row["J"]["mean"] for row in table.as_dict()["objects"]] == [1, 0]
    assert "drawn 2" in str(table) and "0.5000" in str(table).splitlines()[-1]


def test_a_late_object_is_scored_from_its_second_frame(tmp_path):
    truths = [np.where(ids == 2, 0, ids) if n < 3 else ids for n, ids in enumerate(moving())]
    item = record(tmp_path, truths, prompts=(0, 3))
    score = score_folder(item, tmp_path / "truth")
    assert {r["object"]: len(r["J"]) for r in score.results()} == {1: 4, 2: 1}


def test_results_of_any_tracker_are_scored_from_files(tmp_path):
    truths = moving()
    item = record(tmp_path, truths)
    for number, ids in enumerate(truths[1:-1], start=1):  # the ends need not be there
        save(tmp_path / "results" / f"{number:05d}.png", np.roll(ids, 2, axis=1))
    scores = ScoreTable(score_folder(item, tmp_path / "results").results()).totals
    assert 0.5 < scores["J-mean"] < 1
    (tmp_path / "results" / "00003.png").unlink()
    with pytest.raises(OSError, match="00003.png cannot be read: no such file"):
        score_folder(item, tmp_path / "results")


def test_binary_annotations_take_everything_for_one_object(tmp_path):
    truths = [(ids > 0) * 255 for ids in moving()]
    item = record(tmp_path, truths, binary=True)
    score = VideoScore("drawn", {1: 0}, 6, binary=True)
    for number, ids in enumerate(moving()):
        score.add(number, ids, item["annotation_paths"][number])
    assert ScoreTable(score.results()).totals["J&F"] == 1


def test_wrong_results_are_named(tmp_path):
    truths = moving()
    item = record(tmp_path, truths)
    score = VideoScore("drawn", {1: 0, 2: 0}, 6)
    with pytest.raises(ValueError, match="object 7"):
        score.add(1, np.where(truths[1] == 2, 7, truths[1]), item["annotation_paths"][1])
    with pytest.raises(ValueError, match=r"result is \(30, 40\)"):
        score.add(1, truths[1][::2, ::2], item["annotation_paths"][1])
