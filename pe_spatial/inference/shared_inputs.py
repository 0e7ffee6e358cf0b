"""How a model sees a picture before its encoder does: two models share a pass only where this is the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pe_spatial.common.trees import divergences, short
from pe_spatial.inference.predictor import Predictor, inference_pipeline
from pe_spatial.training.amp import evaluation_autocast

# options of models that cut a picture into parts, or see it several times
_VIEWS = ("window", "tiling", "slices", "tta", "flip_test")
_LAST = "PackSample"


@dataclass(frozen=True)
class Inputs:
    """What a predictor does to a picture.

    Attributes:
        reading: How it is decoded.
        steps: Of the pipeline after that.
        batch: Normalization, padding and precision.
        views: Its parts, where the model does not see it whole.
    """

    reading: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    batch: Mapping[str, Any]
    views: Mapping[str, Any]

    @classmethod
    def of(cls, predictor: Predictor) -> "Inputs":
        """Those of a predictor, after the overrides of its config."""
        load, *steps = [_plain(step) for step in inference_pipeline(predictor.config)]
        preprocessor = predictor.model.data_preprocessor
        padding = (
            {"pad_to": preprocessor.pad_to} if preprocessor.pad_to else {"size_divisor": preprocessor.size_divisor}
        )
        kind = predictor.device.type
        with evaluation_autocast(predictor.config, predictor.device):
            precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        batch = {
            "mean": preprocessor.mean.flatten().tolist(),
            "std": preprocessor.std.flatten().tolist(),
            **padding,
            "precision": str(precision).removeprefix("torch."),
        }
        views = {name: predictor.config.model.get(name) for name in _VIEWS}
        views["window"] = getattr(predictor, "window", None)
        rule = predictor.rule
        reading = {**load, "value_range": _plain(rule.value_range), "bands": _plain(rule.bands)}
        reading.setdefault("apply_exif", True)
        reading.pop("max_pixels", None)
        whole = {name: _plain(value) for name, value in views.items() if value}
        return cls(reading, tuple(step for step in steps if step["type"] != _LAST), batch, whole)

    def reading_difference(self, other: "Inputs") -> str | None:
        """What the other one decodes differently; None for nothing."""
        return None if self.reading == other.reading else _first(self.reading, other.reading)

    def difference(self, other: "Inputs") -> str | None:
        """What the other one does differently, so that no picture is the same to the encoder; None for nothing."""
        if self.steps != other.steps:
            return f"it resizes pictures by {_steps(other.steps)} instead of {_steps(self.steps)}"
        if self.batch != other.batch:
            return f"it is given pictures with {_first(self.batch, other.batch)}"
        return None


def view_difference(inputs: Mapping[str, Inputs]) -> str | None:
    """That some of several models see parts of a picture, for the user; None where they all see the same parts."""
    if all(each.views == next(iter(inputs.values())).views for each in inputs.values()):
        return None
    seen = "; ".join(f"{name}: {_views(each.views)}" for name, each in inputs.items())
    return f"see pictures in parts of their own ({seen})"


def _plain(value: Any) -> Any:  # noqa: ANN401 - any node of a config
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "_asdict"):  # a window
        return {key: _plain(item) for key, item in value._asdict().items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _first(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    name, (our, their) = next(iter(divergences([dict(ours), dict(theirs)])))
    return f"{name} {short(their)} instead of {short(our)}"


def _steps(steps: tuple[Mapping[str, Any], ...]) -> str:
    return ", ".join(_step(step) for step in steps) or "nothing"


def _step(step: Mapping[str, Any]) -> str:
    options = ", ".join(f"{name}={value}" for name, value in _options(step))
    return f"{str(step['type']).rpartition('.')[2]}({options})"


def _options(section: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in section.items() if name != "type" and value is not None)


def _views(views: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in views.items()) or "whole"
