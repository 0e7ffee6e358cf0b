"""What metrics say beside numbers: how numbers are shown, which images are kept, which mistakes come first."""

import random

import numpy as np
import pytest
from mmengine.registry import METRICS

import pe_spatial.alignment
import pe_spatial.depth
import pe_spatial.detection
import pe_spatial.segmentation
import pe_spatial.tracking  # noqa: F401 - like those above, it registers its metrics
from pe_spatial.training.explanation import SHOWN, Confusion, ExplainedMetric, Measure, percent, plain
from pe_spatial.training.result_page import main_numbers, table


class Scored(ExplainedMetric):
    image_measure = percent("score", "given")

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            self.keep(sample, sample["score"], f"material of {sample['img_path']}")

    def compute_metrics(self, results):
        self.kept = sum(result["material"] is not None for result in results)
        self.ranking = self.rank(results, lambda material, image: (material, image))
        return {}


class Least(Scored):
    image_measure = Measure("error", "given", higher_is_better=False)


def judged(metric, scores):
    for number, score in enumerate(scores):
        metric.process({}, [{"img_path": f"{number:03d}.jpg", "score": score}])
    metric.evaluate(len(scores))
    return metric.ranking


@pytest.mark.parametrize("kind", [Scored, Least])
@pytest.mark.parametrize("values", [200, 3], ids=["distinct", "ties"])
def test_the_ends_are_those_of_sorting_all_and_little_is_held(kind, values):
    scores = [random.Random(number).randrange(values) / values for number in range(150)]
    metric = kind()
    ends = judged(metric, scores)
    ordered = sorted(scores, reverse=kind is Scored)
    assert [case.score for case in ends.best] == ordered[:SHOWN]
    assert [case.score for case in ends.worst] == ordered[::-1][:SHOWN]
    assert metric.kept == 2 * SHOWN and ends.ranked == 150
    assert not {case.path for case in ends.best} & {case.path for case in ends.worst}
    first = ends.best[0]
    assert first.score == scores[int(first.path[:3])] and first.draw("image") == (f"material of {first.path}", "image")


@pytest.mark.parametrize(("count", "best", "worst"), [(0, None, None), (1, 1, 0), (5, 3, 2), (20, 10, 10)])
def test_few_images_are_divided(count, best, worst):
    ends = judged(Scored(), [number / 20 for number in range(count)] + [float("nan")])
    assert (ends and len(ends.best), ends and len(ends.worst)) == (best, worst)


def test_a_second_evaluation_forgets_the_first():
    metric = Scored()
    judged(metric, [1.0] * 30)
    assert [case.score for case in judged(metric, [0.5, 0.25]).best] == [0.5]


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        (percent("AP", ""), 0.4684, "46.8 %"),
        (percent("mIoU", "", of=100), 46.84, "46.8 %"),
        (Measure("RMSE", "", unit="m", digits=3), 0.41234, "0.412 m"),
        (percent("AP small", "", undefined="none of this size"), float("nan"), "none of this size"),
        (percent("AP", ""), None, "–"),
    ],
)
def test_numbers_are_shown_as_people_read_them(measure, value, text):
    assert measure.show(value) == text


def test_json_knows_no_nan():
    assert [plain(value) for value in (0.5, float("nan"), float("inf"))] == [0.5, None, None]


def test_the_sentence_begins_with_the_main_number():
    measures = {"a/x": percent("AP", ""), "a/y": percent("AP50", "")}
    assert main_numbers({"a/z": 1.0, "a/y": 0.8, "a/x": None}, ["a/x", "a/y"], measures) == "AP – (AP50 80.0 %)"
    assert main_numbers({"score": 0.5}, [], {}) == "score 0.5000"


def test_mistakes_between_classes_stand_apart_from_the_missed_and_the_invented():
    counts = np.array([[5, 2, 3], [0, 7, 1], [4, 0, 0]])
    confusion = Confusion(counts, ["a", "b", "none"], ["a", "b", "none"], "objects", "", has_none=True)
    assert confusion.mistakes() == [("a", "b", 2, 0.2)]
    assert confusion.mistakes(of_none=True) == [("none", "a", 4, 1.0), ("a", "none", 3, 0.3), ("b", "none", 1, 0.125)]
    assert np.array_equal(confusion.shares()[1], [0, 7 / 8, 1 / 8])


def test_cells_of_tables_keep_their_place():
    assert table(["a|b"], [["[x](y)"], ["c\nd"]]) == "| a\\|b |\n| --- |\n| [x](y) |\n| c\\nd |\n"


def explained():
    """All metrics but the one that only hands on to others."""
    found = [part for part in METRICS.module_dict.values() if part.__module__.startswith("pe_spatial.")]
    return [part for part in found if part.__name__ != "PerLayerMetric"]


@pytest.mark.parametrize("metric", explained(), ids=lambda part: part.__name__)
def test_every_metric_says_what_its_numbers_mean(metric):
    assert issubclass(metric, ExplainedMetric)
    assert metric.measures and set(metric.headline) <= set(metric.measures)
    names = [measure.name for measure in metric.measures.values()]
    assert all(measure.meaning for measure in metric.measures.values()) and all(names)
