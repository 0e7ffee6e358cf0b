"""The result of a run, read from its metrics: what `result.json` says of it, and `RESULT.md` with its pictures."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.runner import Runner
from torch import nn

from pe_spatial.backbones import get_variant
from pe_spatial.common.errors import UserError
from pe_spatial.common.parts import encoder_key
from pe_spatial.training import result_page as page
from pe_spatial.training.checkpoint_hook import unwrap
from pe_spatial.training.explanation import Measure, class_record, explained, plain
from pe_spatial.training.progress import read_metrics
from pe_spatial.training.result_pictures import draw_confusion, draw_curves, draw_ranking, reader_of

_PICTURES = "best_and_worst"


def numbers(folder: Path, loop: Any, metrics: Mapping[str, float] | None) -> dict[str, Any]:
    """The entries of the card that say how good the model is.

    `metrics` are numbers, null where one is not defined; `headline` names the main ones, `measures` says what each
    means and which direction is better, `per_class` has those of the classes, and `images` were judged.

    Args:
        folder: Of the run.
        loop: Of the validation or the test.
        metrics: Of its last evaluation by this process; None for a run that went on after it: its last record counts.
    """
    headline, measures = page.measures_of(explained(loop.evaluator))
    if metrics is None:
        records = [record for record in read_metrics(folder) if record["mode"] == "val"]
        last = records[-1] if records else {}
        found = {name: value for name, value in last.items() if name not in ("mode", "iter", "per_class")}
        classes = last.get("per_class", {})
    else:
        found, classes = {name: plain(value) for name, value in metrics.items()}, class_record(loop.evaluator)
    shown = {name: asdict(measure) for name, measure in measures.items() if name in found or name in classes}
    return {
        "metrics": found,
        "headline": [name for name in headline if name in found],
        "measures": shown,
        "per_class": classes,
        "images": len(loop.dataloader.dataset),
    }


def measures_from(card: Mapping[str, Any]) -> dict[str, Measure]:
    """The measures of a card; empty for a card of an earlier version."""
    return {name: Measure(**fields) for name, fields in card.get("measures", {}).items()}


def result_page(folder: Path, card: Mapping[str, Any], runner: Runner, loop: Any, is_fresh: bool) -> str:
    """The text of `RESULT.md`; draws the pictures that it shows.

    Args:
        folder: Of the run.
        card: What `result.json` holds.
        runner: At the end of its work.
        loop: Of the validation or the test; None where there is none.
        is_fresh: Whether this process has evaluated.
    """
    measures = measures_from(card)
    sections = [page.numbers_section(card.get("metrics", {}), measures)]
    curves = draw_curves(folder, read_metrics(folder), card.get("headline", ()), measures, _best_iteration(card))
    if curves is not None:
        sections.append(f"## Curves\n\n![losses, learning rate and main metrics]({curves})\n")
    if loop is not None and is_fresh:
        sections += _explanations(folder, loop)
    elif (folder / _PICTURES).is_dir():
        sections.append(f"## Best and worst pictures\n\nOf an earlier evaluation: see `{_PICTURES}`.\n")
    sections.append(page.facts_section(card))
    return "\n".join([_sentence(card, measures, runner), *filter(None, sections)])


def _explanations(folder: Path, loop: Any) -> list[str]:
    """What the metrics say about classes, confusions, and the best and the worst images."""
    sections = []
    metrics = [metric for metric in explained(loop.evaluator) if metric.explanation is not None]
    read = reader_of(loop.dataloader.dataset)
    for metric in metrics:
        known = metric.explanation
        suffix = f"_{metric.prefix}" if len(metrics) > 1 else ""
        parts = []
        if known.classes is not None:
            parts.append(page.classes_section(known.classes))
        if known.confusion is not None:
            picture = draw_confusion(folder, f"confusion{suffix}.png", known.confusion)
            parts.append(page.confusion_section(known.confusion, picture))
        if known.ranking is not None:
            drawn = draw_ranking(folder, f"{_PICTURES}{suffix}", known.ranking, read)
            parts.append(page.ranking_section(known.ranking.measure, known.ranking.ranked, drawn))
        sections += [part.replace("\n", f" ({metric.prefix})\n", 1) if suffix else part for part in parts]
    return sections


def _best_iteration(card: Mapping[str, Any]) -> int | None:
    best = card.get("best")
    return best["iter"] if best else None


def _sentence(card: Mapping[str, Any], measures: Mapping[str, Measure], runner: Runner) -> str:
    """The result in one sentence with the main number."""
    model = model_name(unwrap(runner.model), runner.cfg.get("model") or {})
    after = f"{card['iterations']:,} iterations" if "iterations" in card else ""
    if not card.get("metrics"):
        return f"{model} was trained for {after} and not evaluated.\n" if after else f"{model} was not evaluated.\n"
    main = page.main_numbers(card["metrics"], card["headline"], measures)
    if not after:
        weights = f"checkpoint {Path(card['checkpoint']).name}" if card["checkpoint"] else "nothing was trained"
        return f"{model} reaches {main} on {card['images']:,} images ({weights}).\n"
    best = card.get("best")
    remark = ""
    if best:
        is_last = best["iter"] == card["iterations"]
        name, number = best["metric"], page.show(best["metric"], best["score"], measures)
        name = measures[name].name if name in measures else name
        remark = f" (best at {best['iter']:,})" if is_last else f" (best at {best['iter']:,}: {name} {number})"
    return f"{model} reached {main} on {card['images']:,} validation images after {after}{remark}.\n"


def model_name(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """What a model is called in text: its `title`, or its class, and its encoder."""
    name = getattr(model, "title", type(model).__name__)
    try:
        backbone = settings[encoder_key(settings)]
        encoder = backbone["model"] if backbone.get("type") == "TimmBackbone" else get_variant(backbone["variant"]).name
        return f"{name} with encoder {encoder}"
    except (KeyError, TypeError, UserError):
        return name
