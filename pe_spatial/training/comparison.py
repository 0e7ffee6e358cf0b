"""Several runs side by side: what their configs differ in, their numbers, and their curves over each other."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import UnreadableFile, UserError
from pe_spatial.common.reading import is_of_kind, read_json
from pe_spatial.common.trees import divergences, short
from pe_spatial.training.checkpoint import read_best
from pe_spatial.training.explanation import UNDEFINED, Measure
from pe_spatial.training.progress import read_metrics
from pe_spatial.training.result import measures_from
from pe_spatial.training.result_pictures import metric_curve, metric_panels
from pe_spatial.training.run_config import config_of_run, lasting_settings
from pe_spatial.visualization.charts import Curve, Panel, save_curves

_BETTER = 1e-12  # numbers that differ by less are equally good


@dataclass(frozen=True)
class Run:
    """What the folder of a run, or of an evaluation, says.

    Args:
        name: What it is called here.
        settings: Its config.
        records: Of `metrics.jsonl`.
        origin: Where its numbers come from, in words.
        metrics: Numbers; NaN where one is not defined.
        classes: Of the classes, {measure: {class: number}}.
        measures: What they mean.
        headline: Names of the main ones.
    """

    name: str
    settings: dict[str, Any]
    records: Sequence[Mapping[str, Any]]
    origin: str
    metrics: Mapping[str, float]
    classes: Mapping[str, Mapping[str, float]]
    measures: Mapping[str, Measure]
    headline: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first a name; `best` are the columns of the best number of each row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[Sequence[int]] = ()


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs.

    Args:
        folders: Two or more.

    Raises:
        UserError: Fewer than two; a folder that is given twice, is not there or holds no run; a damaged file in it.
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} run to compare; give the folders of two or more")
    places = Counter(folder.resolve() for folder in folders)
    for folder in folders:
        if places[folder.resolve()] > 1:
            raise UserError(f"{folder} is given twice; give different runs")
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give the folder of a training run")
    names = Counter(folder.resolve().name for folder in folders)
    return [
        _read_run(folder, str(folder) if names[folder.resolve().name] > 1 else folder.resolve().name)
        for folder in folders
    ]


def _read_run(folder: Path, name: str) -> Run:
    settings = lasting_settings(config_of_run(folder))
    card = read_json(folder / "result.json", {"metrics": dict}) if (folder / "result.json").is_file() else {}
    records = read_metrics(folder)
    validations = {record["iter"]: record for record in records if record["mode"] == "val"}
    best = read_best(folder)
    if best is not None and best["iter"] in validations:
        chosen, origin = validations[best["iter"]], f"best checkpoint, iteration {best['iter']:,}"
    elif validations:
        last = max(validations)
        chosen, origin = validations[last], f"last validation, iteration {last:,}"
    else:
        chosen = {**card.get("metrics", {}), "per_class": card.get("per_class", {})}
        origin = "evaluation" if card.get("metrics") else "not evaluated yet"
    try:
        measures = measures_from(card)
    except (TypeError, AttributeError) as error:
        raise UnreadableFile(f"{folder / 'result.json'} is damaged: its measures are of another form") from error
    classes = {key: row for key, row in _mapping(chosen.get("per_class")).items() if isinstance(row, dict)}
    return Run(
        name=name,
        settings=settings,
        records=records,
        origin=origin,
        metrics={key: _number(value) for key, value in chosen.items() if key not in ("mode", "iter", "per_class")},
        classes={key: {label: _number(value) for label, value in row.items()} for key, row in classes.items()},
        measures=measures,
        headline=[key for key in card.get("headline") or () if isinstance(key, str)],
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float:
    return float(value) if is_of_kind(value, float) else math.nan


@dataclass(frozen=True)
class Comparison:
    """The tables of several runs."""

    runs: Sequence[Run]

    @property
    def measures(self) -> dict[str, Measure]:
        """What the numbers mean, as any of the runs says."""
        return {key: measure for run in self.runs for key, measure in run.measures.items()}

    def notes(self) -> list[str]:
        """What to know before the numbers are compared."""
        notes = [f"{run.name}: {run.origin}" for run in self.runs]
        known = [set(run.metrics) for run in self.runs if run.metrics]
        common = set.intersection(*known) if known else set()
        if known and not common:
            notes.append("the runs have no metric in common: they are of different tasks, or judged by other rules")
        elif any(keys != common for keys in known):
            notes.append(
                f"{len(common)} metrics are common to all runs; of the others some runs have none ({UNDEFINED})"
            )
        if unknown := common - set(self.measures):
            notes.append(f"of {len(unknown)} metrics no result card says which direction is better: none is marked")
        return notes

    def settings(self) -> Table:
        """The keys that the configs differ in."""
        rows = [[key, *map(short, values)] for key, values in divergences([run.settings for run in self.runs])]
        return Table("Config", ["key", *self._names()], rows)

    def metrics(self) -> Table:
        """All numbers, the main ones first."""
        found = dict.fromkeys(key for run in self.runs for key in (*run.headline, *run.metrics))
        keys = [key for key in found if key.count("/") < 2 or key in self.measures]
        values = [[run.metrics.get(key, math.nan) for run in self.runs] for key in keys]
        return self._table("Metrics", "metric", keys, keys, values)

    def classes(self) -> list[Table]:
        """A table for every measure of classes, those with the greatest differences first."""
        tables = []
        for key in dict.fromkeys(key for run in self.runs for key in run.classes):
            labels = dict.fromkeys(label for run in self.runs for label in run.classes.get(key, {}))
            rows = {label: [run.classes.get(key, {}).get(label, math.nan) for run in self.runs] for label in labels}
            spreads = {label: _spread(numbers) for label, numbers in rows.items()}
            ordered = sorted(rows, key=lambda label: -spreads[label])  # noqa: B023 - called before the next round
            measure = self.measures.get(key)
            title = f"Classes: {measure.name if measure else key}"
            tables.append(self._table(title, "class", ordered, [key] * len(rows), [rows[label] for label in ordered]))
        return tables

    def _names(self) -> list[str]:
        return [run.name for run in self.runs]

    def _table(
        self, title: str, first: str, names: Sequence[str], keys: Sequence[str], values: Sequence[Sequence[float]]
    ) -> Table:
        rows, best = [], []
        for name, key, numbers in zip(names, keys, values, strict=True):
            measure = self.measures.get(key)
            rows.append([name, *((measure or Measure(key, "")).show(number) for number in numbers)])
            best.append([] if measure is None else _best(numbers, measure.higher_is_better))
        return Table(title, [first, *self._names()], rows, best)

    def draw(self, path: Path) -> bool:
        """Curves over each other: the loss, and each main metric; returns whether there is anything to draw."""
        measures = self.measures
        keys = dict.fromkeys(key for run in self.runs for key in run.headline)
        losses = [metric_curve(_of(run, "train"), "loss", run.name) for run in self.runs]
        panels = [Panel("training loss", [curve for curve in losses if curve.values], "loss, no unit")]
        for key in keys or [key for key in self.runs[0].metrics if key in self.runs[1].metrics][:4]:

            def curves(name: str, measure: Measure) -> list[Curve]:
                found = [metric_curve(_of(run, "val"), name, run.name, measure.factor) for run in self.runs]
                return [curve for curve in found if curve.values]

            title = measures[key].name if key in measures else key
            panels += [Panel(title, panel.curves, panel.unit) for panel in metric_panels([key], measures, curves)]
        panels = [panel for panel in panels if panel.curves]
        if panels:
            save_curves(path, "", panels)
        return bool(panels)


def _of(run: Run, mode: str) -> list[Mapping[str, Any]]:
    return [record for record in run.records if record["mode"] == mode]


def _spread(numbers: Sequence[float]) -> float:
    known = [number for number in numbers if math.isfinite(number)]
    return max(known) - min(known) if known else -1.0


def _best(numbers: Sequence[float], higher_is_better: bool) -> list[int]:
    """The places of the best of several numbers; none where there is nothing to choose from."""
    known = [number for number in numbers if math.isfinite(number)]
    if len(known) < 2 or max(known) - min(known) <= _BETTER:
        return []
    best = max(known) if higher_is_better else min(known)
    return [place for place, number in enumerate(numbers) if abs(number - best) <= _BETTER]
