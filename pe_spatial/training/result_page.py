"""`RESULT.md`: a sentence with the main number, what the numbers mean, every class, curves, confusions and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pe_spatial.common.errors import printable
from pe_spatial.training.explanation import ClassTable, Confusion, Measure, full_name

_MOST_CLASSES = 200  # rows of a table; metrics.jsonl has them all
# entries of the card that the page shows in another form
_SHOWN_ABOVE = ("metrics", "measures", "headline", "per_class")


def main_numbers(metrics: Mapping[str, float | None], headline: Sequence[str], measures: Mapping[str, Measure]) -> str:
    """The numbers of a headline in words: `box AP 46.8 % (box AP50 79.5 %, mask AP 44.1 %)`.

    Args:
        metrics: All numbers.
        headline: Names of the main ones, the first of all first; those that are not there are left out.
        measures: What they mean; a number without a meaning is shown by its name.
    """
    names = [name for name in dict.fromkeys([*headline, *metrics]) if name in metrics]
    count = max(sum(name in metrics for name in headline), 1)
    first, *others = [f"{_name(name, measures)} {show(name, metrics[name], measures)}" for name in names[:count]] or [
        ""
    ]
    return f"{first} ({', '.join(others)})" if others else first


def show(name: str, value: float | None, measures: Mapping[str, Measure]) -> str:
    """A number as its measure shows it, or with four decimals."""
    return measures.get(name, Measure(name, "")).show(value)


def _name(name: str, measures: Mapping[str, Measure]) -> str:
    return measures[name].name if name in measures else name


def numbers_section(metrics: Mapping[str, float | None], measures: Mapping[str, Measure]) -> str:
    """The table of all numbers, each with its meaning; those of single classes are left to their own table."""
    rows = []
    for name, value in metrics.items():
        measure = measures.get(name)
        if measure is None and name.count("/") > 1:
            continue
        meaning = "" if measure is None else f"{measure.name}: {measure.meaning}"
        rows.append([name, show(name, value, measures), meaning])
    return "## Numbers\n\n" + table(["metric", "value", "meaning"], rows) if rows else ""


def classes_section(classes: ClassTable) -> str:
    """The numbers of every class, in the order of the dataset."""
    titles = [classes.measures[key].name for key in classes.values]
    rows = [
        [name, f"{count:,}", *(classes.measures[key].show(column[row]) for key, column in classes.values.items())]
        for row, (name, count) in enumerate(zip(classes.names, classes.counts, strict=True))
    ]
    text = "## Classes\n\n" + table(["class", classes.counted, *titles], rows[:_MOST_CLASSES])
    left_out = len(rows) - _MOST_CLASSES
    return text + (f"\nand {left_out} more classes, which `result.json` lists.\n" if left_out > 0 else "")


def confusion_section(confusion: Confusion, picture: str | None) -> str:
    """What is mistaken for what: a picture where the classes are few, and the most frequent mistakes."""
    text = f"## What is mistaken for what\n\nCounted: {confusion.rule}.\n\n"
    text += f"![confusion matrix]({quote(picture)})\n\n" if picture else ""
    head = ["true", "predicted", confusion.counted, "share of the row"]
    kinds = [("taken for another class", False)] + [("missed or invented", True)] * confusion.has_none
    for title, of_none in kinds:
        rows = [
            [true, predicted, f"{count:,}", f"{100 * share:.1f} %"]
            for true, predicted, count, share in confusion.mistakes(of_none)
        ]
        text += f"Most often {title}:\n\n{table(head, rows)}\n" if rows else f"Nothing was {title}.\n\n"
    return text


def ranking_section(measure: Measure, ranked: int, drawn: Mapping[str, Sequence[tuple[str, str, float]]]) -> str:
    """The best and the worst images with links to their pictures.

    Args:
        measure: Of the scores.
        ranked: How many images have a score.
        drawn: By "best" and "worst": (picture, name of the image, score).
    """
    text = (
        f"## Best and worst pictures\n\nOf {ranked} pictures, by {measure.name} ({measure.meaning}); the annotation "
        "beside the prediction.\n"
    )
    for end, cases in drawn.items():
        rows = [[f"[{_cell(name)}]({quote(file)})", measure.show(score)] for file, name, score in cases]
        if rows:
            text += f"\n{table([end, measure.name], rows)}"
    return text


def facts_section(card: Mapping[str, Any]) -> str:
    """How the result was made: the other entries of the card."""
    facts = "".join(f"* {name}: {_inline(value)}\n" for name, value in card.items() if name not in _SHOWN_ABOVE)
    return f"## How it was made\n\n{facts}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells that are links are taken as they are."""
    lines = [head, ["---"] * len(head), *rows]
    texts = ["| " + " | ".join(cell if cell.startswith("[") else _cell(cell) for cell in line) + " |" for line in lines]
    return "\n".join(texts) + "\n"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("[", "\\[")


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inline(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)


def measures_of(metrics: Sequence[Any]) -> tuple[list[str], dict[str, Measure]]:
    """The headline and the measures of metrics, by their full names."""
    headline = [full_name(metric, key) for metric in metrics for key in metric.headline]
    return headline, {full_name(metric, key): m for metric in metrics for key, m in metric.measures.items()}
