"""A model says its task, and a task says its predictor and its writer; so the commands know no models."""

import json
import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope

from pe_spatial.common.errors import UserError
from pe_spatial.common.pictures import ValueRule
from pe_spatial.inference.predictor import Predictor, Recipe, inference_pipeline, pipeline_loader
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint
from pe_spatial.training.config import import_packages

_RESIZES = ("KeepRatioResize", "Resize")  # ours, and torchvision's, which version 0.1 and resizes to (H, W) use
_PATCHES = (8, 14, 16)  # sides of the encoders' patches


def plain_predictor(checkpoint: Path | Recipe, options: Namespace) -> Predictor:
    """The predictor of a task without options of its own."""
    given = options.device, options.batch_size, options.overrides
    return Predictor(checkpoint, *given, engine=options.engine, precision=options.precision)


@dataclass(frozen=True)
class Task:
    """What `pe-spatial predict` does with the models of a task.

    Args:
        name: The `task` of its models.
        writer: Writes the predictions; its `result` is the file by which a folder is known to be this task's.
        predictor: Builds the predictor of a checkpoint with the options of the command.
        settings: Options of the command that change the results; they must be equal for two runs to share a folder.
        options: Further options of the command that it takes.
    """

    name: str
    writer: type[ResultsWriter]
    predictor: Callable[[Path | Recipe, Namespace], Predictor] = plain_predictor
    settings: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


TASKS: dict[str, Task] = {}


def register_task(task: Task) -> Task:
    """Make a task known by its name; a package of the user's own registers its tasks where it is imported.

    Raises:
        ValueError: Another task has the name.
    """
    if TASKS.setdefault(task.name, task) != task:
        raise ValueError(f"there is a task {task.name!r} already; give yours another name")
    return task


def task_of(config: Mapping[str, Any], checkpoint: Path) -> Task:
    """The task of the model of a checkpoint.

    Args:
        config: That it was trained with. What its `custom_imports` name is imported.
        checkpoint: For messages.

    Raises:
        UserError: The model is not registered, names no task, or one that predict has no writer for.
    """
    import_packages(config, checkpoint)
    kind = config["model"]["type"]
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        model = MODELS.get(kind)
    if model is None:
        raise UserError(
            f"{checkpoint}: the model {kind} is not registered; add its package to custom_imports in the config"
        )
    name = getattr(model, "task", None)
    if name is None:
        raise UserError(f'{checkpoint}: the model {kind} has no task; add one to its class: task = "detection"')
    module = f"pe_spatial.{name}.results"
    if name not in TASKS and find_spec(f"pe_spatial.{name}") is not None and find_spec(module) is not None:
        import_module(module)
    if name not in TASKS:
        raise UserError(
            f"{checkpoint}: predict has no writer for {kind}, a model of {name}; it has for: {', '.join(sorted(TASKS))}"
        )
    return TASKS[name]


def open_predictor(
    checkpoint: str | Path,
    device: str | torch.device | None,
    batch_size: int,
    overrides: Sequence[str],
    engine: str | None = None,
    precision: str | None = None,
) -> Predictor:
    """The predictor that `pe-spatial predict` takes for a checkpoint, without the options of its task.

    Args:
        checkpoint: As of `Predictor`.
        device: Likewise.
        batch_size: Likewise.
        overrides: Likewise.
        engine: Likewise.
        precision: Likewise.

    Raises:
        UserError: As of `task_of` and of `Predictor`.
    """
    path = resolve_checkpoint(checkpoint)
    task = task_of(read_config(load_checkpoint(path), path), path)
    options = {"device": device, "batch_size": batch_size, "overrides": overrides, "output": None}
    options |= {"engine": engine, "precision": precision}
    return task.predictor(path, Namespace(**options, **dict.fromkeys((*task.settings, *task.options))))


# --- the size of the images -------------------------------------------------------------------------------------------
def resizing(config: Mapping[str, Any], side: int) -> list[str]:
    """Overrides of a config with which its inference pipeline resizes images to another size.

    The pipeline resizes as it did: by the longer side, the shorter side, or to (H, W). One that resizes nothing makes
    the longer side `side`.

    Args:
        config: Of the model.
        side: In pixels.
    """
    steps = [dict(step) for step in inference_pipeline(config)]
    resizes = [step for step in steps if step["type"].rpartition(".")[2] in _RESIZES]
    for step in resizes:
        step |= _resized(step, side)
    if not resizes:
        steps.insert(1, {"type": _RESIZES[0], "max_size": side})
    overrides = [f"{pipeline_loader(config)}.dataset.pipeline={json.dumps(steps)}"]
    preprocessor = config["model"].get("data_preprocessor") or {}
    if preprocessor.get("pad_to") and not config["model"].get("slices"):  # windows stay as large as they are
        longest = max([side, *(step["limit"] for step in resizes if step.get("limit") is not None)])
        overrides.append(f"model.data_preprocessor.pad_to={[_padded(longest, old) for old in preprocessor['pad_to']]}")
    return overrides


def slicing(config: Mapping[str, Any], side: int, overlap: float | None, resized: bool) -> list[str]:
    """Overrides of a config with which its detector sees images in overlapping windows (`model.slices`).

    Args:
        config: Of a detector.
        side: Of the windows in pixels.
        overlap: Share of a window; None leaves that of the config, or else the detector's own.
        resized: Whether other overrides say how large images are; without them their own size is kept.
    """
    slices = {**(config["model"].get("slices") or {}), "size": side}
    slices |= {} if overlap is None else {"overlap": overlap}
    overrides = [f"model.slices={json.dumps(slices)}"]
    preprocessor = config["model"].get("data_preprocessor") or {}
    if preprocessor.get("pad_to"):
        overrides.append(f"model.data_preprocessor.pad_to={[_padded(side, old) for old in preprocessor['pad_to']]}")
    return overrides if resized else [*overrides, _unresized(config)]


def tiling(config: Mapping[str, Any], side: int, resized: bool) -> list[str]:
    """Overrides of a config with which its depth model sees images in overlapping square tiles (`model.tiling`).

    Args:
        config: Of a depth model; the overlap is the one that it names, or else the model's own.
        side: Of the tiles in pixels.
        resized: Whether other overrides say how large images are; without them their own size is kept.
    """
    settings = {**(config["model"].get("tiling") or {}), "tile": [side, side], "stride": None}
    overrides = [f"model.tiling={json.dumps(settings)}"]
    return overrides if resized else [*overrides, _unresized(config)]


def _unresized(config: Mapping[str, Any]) -> str:
    """The override that leaves images at their own size."""
    steps = [step for step in inference_pipeline(config) if step["type"].rpartition(".")[2] not in _RESIZES]
    return f"{pipeline_loader(config)}.dataset.pipeline={json.dumps(steps)}"


def reading(config: Mapping[str, Any], value_range: Sequence[float] | None, bands: Sequence[int] | None) -> list[str]:
    """Overrides of a config with which its inference pipeline shows values and bands by another rule (`ValueRule`).

    Args:
        config: Of the model.
        value_range: (black, white); None leaves the rule of the config.
        bands: Numbers of bands; None leaves the rule of the config.
    """
    ValueRule.of(value_range, bands)
    step = f"{pipeline_loader(config)}.dataset.pipeline.0"
    named = {"value_range": value_range, "bands": bands}
    return [f"{step}.{name}={json.dumps(list(value))}" for name, value in named.items() if value is not None]


def _padded(side: int, old: int) -> int:
    """The length to pad to for images of another size: as multiple of patches as the old one."""
    unit = math.lcm(*(patch for patch in _PATCHES if old % patch == 0))
    return -(-side // unit) * unit


def _resized(step: Mapping[str, Any], side: int) -> dict[str, Any]:
    size, longest, limit = (step.get(name) for name in ("size", "max_size", "limit"))
    if isinstance(size, list | tuple):
        return {"size": [max(round(length * side / max(size)), 1) for length in size]}
    resized: dict[str, Any] = {"max_size": side} if size is None else {"size": side}
    if "enlarge" in step:
        resized["enlarge"] = True
    if size is not None and longest is not None:
        resized["max_size"] = max(round(longest * side / size), side + 1)
    if longest is not None and limit is not None:  # as many pixels of the canvas stay free as before
        resized["limit"] = resized["max_size"] + limit - longest
    return resized
