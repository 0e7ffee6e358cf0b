"""The pictures of a result: `curves.png`, `confusion.png`, and the best and the worst images in `best_and_worst/`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor

from pe_spatial.common.errors import UserError
from pe_spatial.common.names import output_stems
from pe_spatial.common.pictures import save_image
from pe_spatial.data import LoadImage
from pe_spatial.training.explanation import Case, Confusion, Measure, Ranking
from pe_spatial.visualization.charts import Curve, Panel, save_confusion, save_curves
from pe_spatial.visualization.layout import shrink

_MOST_CLASSES = 31  # of a matrix that can be read, background included
_LONGEST = 2400  # pixels of the longer side of a picture


def reader_of(dataset: Any) -> Callable[[str], Tensor]:
    """What reads an image uint8 [3, H, W] as the pipeline of a dataset does."""
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    load = next((step for step in steps if isinstance(step, LoadImage)), LoadImage())
    return lambda path: load({"img_path": path})["img"].as_subclass(Tensor)


# --- curves -----------------------------------------------------------------------------------------------------------
def metric_curve(records: Sequence[Mapping[str, Any]], name: str, label: str, factor: float = 1.0) -> Curve:
    """One number over the iterations, from the records of `metrics.jsonl`; null is a gap."""
    found = [record for record in records if name in record]
    values = [record[name] for record in found]
    numbers = [factor * value if isinstance(value, int | float) else float("nan") for value in values]
    return Curve(label, [record["iter"] for record in found], numbers)


def metric_panels(
    names: Sequence[str], measures: Mapping[str, Measure], curves: Callable[[str, Measure], Sequence[Curve]]
) -> list[Panel]:
    """Diagrams of metrics, those of one prefix and unit in one.

    Args:
        names: Of the metrics.
        measures: What they mean; numbers without a meaning are shown as they are.
        curves: The lines of a metric.
    """
    groups: dict[tuple[str, str], list[Curve]] = {}
    for name in names:
        measure = measures.get(name, Measure(name, ""))
        groups.setdefault((name.partition("/")[0], measure.unit), []).extend(curves(name, measure))
    return [Panel(f"validation: {prefix}", lines, unit) for (prefix, unit), lines in groups.items() if lines]


def draw_curves(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    headline: Sequence[str],
    measures: Mapping[str, Measure],
    best: int | None,
) -> str | None:
    """Losses, learning rate and main metrics over the iterations; returns the name of the picture, if there is one.

    Args:
        folder: Of the run.
        records: Those of `metrics.jsonl`.
        headline: Names of the main metrics.
        measures: What they mean.
        best: The iteration of the best checkpoint.
    """
    training = [record for record in records if record["mode"] == "train"]
    validations = [record for record in records if record["mode"] == "val"]
    if not training:
        return None
    terms = dict.fromkeys(name for record in training for name in record if "loss" in name)
    losses = [metric_curve(training, name, name.removeprefix("loss_")) for name in terms]
    if len(losses) == 2:  # the only term is the sum
        losses = losses[:1]
    rate = "base_lr" if any("base_lr" in record for record in training) else "lr"
    panels = [
        Panel("training loss", losses, "loss, no unit"),
        Panel("learning rate", [metric_curve(training, rate, rate)], "learning rate"),
    ]
    shown = [name for name in headline if any(name in record for record in validations)]
    panels += metric_panels(
        shown, measures, lambda name, measure: [metric_curve(validations, name, measure.name, measure.factor)]
    )
    marks = None if best is None else {best: f"best, {best:,}"}
    marked = [replace(panel, marks=marks) if panel.title.startswith("validation") else panel for panel in panels]
    save_curves(folder / "curves.png", "", marked)
    return "curves.png"


# --- confusion --------------------------------------------------------------------------------------------------------
def draw_confusion(folder: Path, name: str, confusion: Confusion) -> str | None:
    """The matrix, if its classes can be read; returns the name of the picture."""
    if len(confusion.rows) > _MOST_CLASSES:
        return None
    save_confusion(folder / name, confusion.shares(), confusion.rows, confusion.columns, confusion.rule)
    return name


# --- images -----------------------------------------------------------------------------------------------------------
def draw_ranking(
    folder: Path, name: str, ranking: Ranking, read: Callable[[str], Tensor]
) -> dict[str, list[tuple[str, str, float]]]:
    """Draw the best and the worst images; what an earlier evaluation left in their folder is removed.

    Args:
        folder: Of the run.
        name: Of the folder for the pictures, below that of the run.
        ranking: The images.
        read: See `reader_of`.

    Returns:
        By "best" and "worst": (picture, name of the image, score).
    """
    drawn: dict[str, list[tuple[str, str, float]]] = {"best": [], "worst": []}
    for end, cases in (("best", ranking.best), ("worst", ranking.worst)):
        for number, case in enumerate(cases, start=1):
            image = Path(case.path).name
            stem = output_stems([f"{end}_{number:02d}_{image}"]).popitem()[1]
            if _draw_case(folder / name / f"{stem}.jpg", case, read):
                drawn[end].append((f"{name}/{stem}.jpg", image, case.score))
    written = {file.rpartition("/")[2] for rows in drawn.values() for file, _, _ in rows}
    for old in (folder / name).glob("*_*.jpg"):
        if old.name.startswith(("best_", "worst_")) and old.name not in written:
            old.unlink(missing_ok=True)
    return drawn


def _draw_case(path: Path, case: Case, read: Callable[[str], Tensor]) -> bool:
    """Whether it could be drawn: the end of a long training does not fail for an image that has been moved away."""
    try:
        picture = case.draw(read(case.path))
    except (UserError, OSError, ValueError) as error:
        MMLogger.get_current_instance().warning(f"{case.path} is not shown: {error}")
        return False
    save_image(path, shrink(picture, _LONGEST))
    return True
