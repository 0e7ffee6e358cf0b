"""What a metric says beside its numbers: what they mean, each class, what is mistaken for what, best and worst images.

A metric that is a subclass of `ExplainedMetric` sets `explanation` in `compute_metrics`, on the process that computes.
The pages of a run (`RESULT.md`, `metrics.jsonl`, `result.json`, `pe-spatial compare`) show it, whatever the task.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import count
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray
from torch import Tensor

UNDEFINED = "–"
SHOWN = 10  # best and worst images


# --- numbers ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measure:
    """What one number of a metric means and how it is shown.

    Args:
        name: In plain words, such as "box AP".
        meaning: A sentence without its subject.
        factor: The number times this is shown.
        unit: Behind it, such as "%" or "m".
        digits: Decimals that are shown.
        higher_is_better: Whether a greater number is the better one.
        undefined: What is shown where the number is not defined.
    """

    name: str
    meaning: str
    factor: float = 1.0
    unit: str = ""
    digits: int = 4
    higher_is_better: bool = True
    undefined: str = UNDEFINED

    def show(self, value: float | None) -> str:
        """The number as people read it."""
        if value is None or not math.isfinite(value):
            return self.undefined
        return f"{self.factor * value:.{self.digits}f} {self.unit}".rstrip()


def percent(name: str, meaning: str, of: float = 1.0, undefined: str = UNDEFINED) -> Measure:
    """A measure whose best value is `of`, shown in percent with one decimal."""
    return Measure(name, meaning, 100 / of, "%", 1, undefined=undefined)


def plain(value: float) -> float | None:
    """A number as JSON has it: None for one that is not finite, for JSON knows neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


# --- what a metric explains -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ClassTable:
    """The numbers of every class.

    Args:
        names: Of the classes.
        counts: How often each occurs in the data.
        counted: What is counted, such as "objects".
        values: By measure, such as `bbox_AP`, one number for each class; NaN where it is not defined.
        measures: What they mean, by the same keys.
    """

    names: Sequence[str]
    counts: Sequence[float]
    counted: str
    values: Mapping[str, Sequence[float]]
    measures: Mapping[str, Measure]

    def record(self) -> dict[str, dict[str, float | None]]:
        """{measure: {class: number or None}}, as JSON has it."""
        return {
            key: {name: plain(value) for name, value in zip(self.names, column, strict=True)}
            for key, column in self.values.items()
        }


@dataclass(frozen=True)
class Confusion:
    """What is mistaken for what.

    Args:
        counts: [R, C], row: the truth, column: the prediction.
        rows: Names of the rows.
        columns: Names of the columns, those of the rows first.
        counted: What is counted, such as "objects".
        rule: How truth and prediction were matched.
        has_none: Whether the last row holds what was invented, and the last column what was missed.
    """

    counts: NDArray[np.int64]
    rows: Sequence[str]
    columns: Sequence[str]
    counted: str
    rule: str
    has_none: bool = False

    def shares(self) -> NDArray[np.float64]:
        """The counts over the sums of their rows; 0 in rows without any."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def mistakes(self, of_none: bool = False, most: int = SHOWN) -> list[tuple[str, str, int, float]]:
        """The most frequent mistakes: (truth, prediction, count, share of the row).

        Args:
            of_none: What was invented or missed, instead of what was taken for another class.
            most: How many.
        """
        is_none = np.zeros(self.counts.shape, bool)
        if self.has_none:
            is_none[-1] = is_none[:, -1] = True
        wrong = np.where(is_none == of_none, self.counts, 0)
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), wrong.shape[1]) for place in order]
        shares = self.shares()
        return [(self.rows[i], self.columns[j], int(wrong[i, j]), float(shares[i, j])) for i, j in pairs if wrong[i, j]]


@dataclass(frozen=True)
class Case:
    """An image with its score.

    Args:
        path: Of the image file.
        score: Of the image; `Ranking.measure` says of which kind.
        draw: Makes a picture of truth and prediction, uint8 [3, H', W'], from the image uint8 [3, H, W].
    """

    path: str
    score: float
    draw: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ranking:
    """The best images, the best first, and the worst, the worst first; none is both.

    Args:
        measure: Of the scores.
        best: Up to `SHOWN`.
        worst: Up to `SHOWN`.
        ranked: How many images have a score.
    """

    measure: Measure
    best: Sequence[Case]
    worst: Sequence[Case]
    ranked: int


@dataclass(frozen=True)
class Explanation:
    """What a metric says about one evaluation beside its numbers.

    Args:
        classes: The numbers of every class.
        confusion: What is mistaken for what.
        ranking: The best and the worst images.
    """

    classes: ClassTable | None = None
    confusion: Confusion | None = None
    ranking: Ranking | None = None


@runtime_checkable
class Explained(Protocol):
    """A metric that explains itself.

    Attributes:
        headline: Keys of the main numbers, without the prefix, the main one first.
        measures: By key, without the prefix, what the numbers mean.
        explanation: Of the last evaluation, on the process that computed it; None elsewhere and before.
    """

    headline: Sequence[str]
    measures: Mapping[str, Measure]
    explanation: Explanation | None


def explained(evaluator: Any) -> list[Any]:
    """The metrics of an evaluator that explain themselves, as `Explained` with a `prefix`."""
    return [metric for metric in evaluator.metrics if isinstance(metric, Explained)]


def full_name(metric: Any, key: str) -> str:
    """What a number of a metric is called among those of all metrics, such as `coco/bbox_mAP`."""
    return f"{metric.prefix}/{key}" if metric.prefix else key


def class_record(evaluator: Any) -> dict[str, dict[str, float | None]]:
    """The numbers of every class, {measure: {class: number or None}}; empty where no metric knows classes."""
    return {
        full_name(metric, key): values
        for metric in explained(evaluator)
        if metric.explanation is not None and metric.explanation.classes is not None
        for key, values in metric.explanation.classes.record().items()
    }


# --- a base of metrics ------------------------------------------------------------------------------------------------
@dataclass
class _Extremes:
    """Which images may still be among the best or the worst, at most `SHOWN` of either."""

    best: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    worst: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)

    def offer(self, entry: dict[str, Any], rank: float) -> None:
        """Take an entry; those that are among neither any more lose their `material`."""
        number = next(self.numbers)
        entry["held"] = 2
        # of equal ranks the best are the earliest and the worst the latest, so that they are not the same
        for heap, key in ((self.best, (rank, -number)), (self.worst, (-rank, number))):
            if len(heap) < SHOWN:
                heappush(heap, (*key, entry))
                continue
            out = heappushpop(heap, (*key, entry))[2]
            out["held"] -= 1
            if not out["held"]:
                out["material"] = None


class ExplainedMetric(BaseMetric):
    """A metric that keeps what it needs to draw the best and the worst images, and of no others.

    Subclasses hand a score and the material of a picture for each image to `keep`, and what `process` collected to
    `rank`. The memory is bounded: each process holds the material of 20 images.
    """

    headline: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[Mapping[str, Measure]] = {}
    image_measure: ClassVar[Measure]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.explanation: Explanation | None = None
        self._extremes = _Extremes()

    def keep(self, sample: Mapping[str, Any], score: float, material: Any, **content: Any) -> None:
        """Add a result.

        Args:
            sample: What was judged.
            score: Of the image, NaN for one that is not ranked.
            material: That `rank` hands to its `draw`.
            **content: More entries of the result.
        """
        if not self.results:
            self._extremes = _Extremes()
        path = sample.get("img_path")
        entry = {**content, "path": path, "score": score, "material": None}
        self.results.append(entry)
        if path is not None and math.isfinite(score):
            entry["material"] = material
            self._extremes.offer(entry, score if self.image_measure.higher_is_better else -score)

    def rank(self, results: Iterable[Mapping[str, Any]], draw: Callable[[Any, Tensor], Tensor]) -> Ranking | None:
        """The best and the worst of the results of all processes; None where no image can be drawn.

        Args:
            results: Those that `keep` made.
            draw: (material, image uint8 [3, H, W]) to a picture.
        """
        sign = 1 if self.image_measure.higher_is_better else -1
        entries = list(results)
        ranked = sum(math.isfinite(entry["score"]) for entry in entries)
        kept = [entry for entry in entries if entry["material"] is not None]
        kept.sort(key=lambda entry: (-sign * entry["score"], str(entry["path"])))
        return ranking(self.image_measure, kept, ranked, lambda entry, image: draw(entry["material"], image))


def ranking(
    measure: Measure, ordered: Sequence[Mapping[str, Any]], ranked: int, draw: Callable[[Any, Tensor], Tensor]
) -> Ranking | None:
    """The two ends of images in the order of their scores, which share none: of few images, a half each.

    Args:
        measure: Of the scores.
        ordered: `path`, `score` and whatever `draw` needs, the best first; those in the middle may be missing.
        ranked: How many images have a score.
        draw: (entry, image uint8 [3, H, W]) to a picture.
    """
    if not ordered:
        return None
    most = min(SHOWN, -(-len(ordered) // 2))

    def case(entry: Mapping[str, Any]) -> Case:
        return Case(str(entry["path"]), float(entry["score"]), lambda image: draw(entry, image))

    best, rest = ordered[:most], ordered[most:]
    return Ranking(measure, [*map(case, best)], [*map(case, rest[::-1][:most])], ranked)
