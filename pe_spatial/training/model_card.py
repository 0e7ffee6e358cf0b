"""The page of a shared model on the Hugging Face hub: a header that the hub reads, the result, and how to use it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pe_spatial import __version__
from pe_spatial.common.errors import UnreadableFile, few, printable
from pe_spatial.common.reading import is_of_kind, read_json
from pe_spatial.common.safe_yaml import write
from pe_spatial.training import result_page as page
from pe_spatial.training.checkpoint import iteration_of
from pe_spatial.training.explanation import Measure
from pe_spatial.training.progress import read_metrics
from pe_spatial.training.result import measures_from

LICENSE = "apache-2.0"
_SHOWN_CLASSES = 100
# `task` of a model -> the hub's name of it
PIPELINES = {"depth": "depth-estimation", "detection": "object-detection", "segmentation": "image-segmentation"}


@dataclass(frozen=True)
class Evaluation:
    """The validation of one checkpoint.

    Args:
        iteration: After which it was.
        images: That were judged; None where the run did not end, and has not said it.
        metrics: Numbers, None where one is not defined.
        headline: Names of the main ones.
        measures: What they mean.
    """

    iteration: int
    images: int | None
    metrics: Mapping[str, float | None]
    headline: Sequence[str]
    measures: Mapping[str, Measure]

    @property
    def sentence(self) -> str:
        """What was reached, as the end of a sentence."""
        main = page.main_numbers(self.metrics, self.headline, self.measures)
        on = "" if self.images is None else f" on {self.images:,} validation images"
        return f"reached {main}{on} after {self.iteration:,} iterations"


@dataclass(frozen=True)
class SharedModel:
    """What a card says of a model.

    Args:
        name: On the hub, OWNER/NAME.
        title: Of the model and its encoder, in words.
        task: Of the model; None where it names none.
        dataset: Type of the data that it was validated on.
        classes: Names by label.
        parameters: Their number.
        trust: Packages of the user's own that its config imports.
        evaluation: Of these weights; None where there is none.
    """

    name: str
    title: str
    task: str | None
    dataset: str
    classes: Sequence[str]
    parameters: int
    trust: Sequence[str]
    evaluation: Evaluation | None


def evaluation_of(checkpoint: Path) -> Evaluation | None:
    """The validation of exactly the weights in a checkpoint of a run, if the run's folder has it.

    Raises:
        UnreadableFile: `result.json` is damaged.
    """
    iteration, folder = iteration_of(checkpoint), checkpoint.parent
    found = [record for record in read_metrics(folder) if record["mode"] == "val" and record["iter"] == iteration]
    if not found:
        return None
    card = read_json(folder / "result.json", {}) if (folder / "result.json").is_file() else {}
    try:
        measures = measures_from(card)
    except (TypeError, AttributeError) as error:
        raise UnreadableFile(f"{folder / 'result.json'} is damaged: its measures are of another form") from error
    numbers = {key: value for key, value in found[-1].items() if key not in ("mode", "iter", "per_class")}
    return Evaluation(
        iteration=iteration,
        images=card["images"] if is_of_kind(card.get("images"), int) else None,
        metrics={key: float(value) if is_of_kind(value, float) else None for key, value in numbers.items()},
        headline=[key for key in card.get("headline") or () if key in numbers],
        measures=measures,
    )


def model_card(model: SharedModel) -> str:
    """The text of the card."""
    evaluated = model.evaluation
    sentence = f"{model.title} {evaluated.sentence if evaluated else 'was not evaluated'}."
    trust = f", trust={list(model.trust)}" if model.trust else ""
    sections = [
        f"---\n{write(_header(model))}---\n",
        f"# {model.name}\n\n{printable(sentence)}\n",
        "## Use\n\n```python\nfrom pe_spatial import Predictor\n"
        f'predictor = Predictor("hf://{model.name}"{trust})\npredictor("photo.jpg").save("result.png")\n```\n',
    ]
    if evaluated:
        sections.append(page.numbers_section(evaluated.metrics, evaluated.measures))
    facts = [f"{model.parameters:,} parameters", f"written by pe_spatial {__version__}", "`config.yaml` has the recipe"]
    if model.classes:
        names = printable(few(model.classes, _SHOWN_CLASSES)).replace("`", "'")
        facts.insert(0, f"{len(model.classes)} classes: `{names}`")
    sections.append("## Model\n\n" + "".join(f"* {fact}\n" for fact in facts))
    return "\n".join(filter(None, sections))


def _header(model: SharedModel) -> dict[str, Any]:
    """What the hub reads: the fields of its model cards."""
    pipeline = PIPELINES.get(model.task or "")
    header: dict[str, Any] = {"license": LICENSE, "library_name": "pe_spatial"}
    header |= {"pipeline_tag": pipeline} if pipeline else {}
    header["tags"] = ["perception-encoder", *([model.task] if model.task else [])]
    numbers = model.evaluation.metrics if model.evaluation else {}
    names = model.evaluation.measures if model.evaluation else {}
    metrics = [
        {"type": key, "name": names[key].name if key in names else key, "value": value}
        for key, value in numbers.items()
        if value is not None
    ]
    if metrics:
        task = {"type": pipeline or model.task or "other"}
        dataset = {"type": model.dataset.lower(), "name": model.dataset}
        results = [{"task": task, "dataset": dataset, "metrics": metrics}]
        header["model-index"] = [{"name": model.name.partition("/")[2], "results": results}]
    return header
