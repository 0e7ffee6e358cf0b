"""A second head on the encoder of a run: its weights, frozen, its options and its way to see pictures.

What comes out shares a pass with the run in `pe_spatial.SharedPredictor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope
from mmengine.utils import to_2tuple

from pe_spatial.backbones.weights import merge_command
from pe_spatial.common.errors import OptionError
from pe_spatial.inference.predictor import inference_pipeline
from pe_spatial.inference.tasks import task_of
from pe_spatial.own.models import SIZES, TASKS, TINY, TINY_ENCODER, find_model, find_task
from pe_spatial.own.request import Request
from pe_spatial.training.checkpoint import load_checkpoint, read_config, resolve_checkpoint

Section = dict[str, Any]

# options of a PEBackbone by which two encoders differ, and what they are where a config does not say
_OPTIONS: Section = {
    "patch_size": None,
    "window": None,
    "global_blocks": [],
    "rope": "extrapolate",
    "pos_embed": "bilinear",
}
_PREPROCESSING: Section = {"mean": [127.5] * 3, "std": [127.5] * 3, "size_divisor": 1, "pad_to": None}


@dataclass(frozen=True)
class Borrowed:
    """What a training takes from another run; nothing, where it has an encoder of its own.

    Attributes:
        settings: Sections of the config, over those of the recipe.
        steps: Of the run's pipeline of inference.
        lines: What to tell.
    """

    settings: Section = field(default_factory=dict)
    steps: tuple[Section, ...] = ()
    lines: tuple[str, ...] = ()

    def pipeline(self, drafted: Config) -> Section:
        """The run's way to see pictures with the label loaders of a recipe.

        Args:
            drafted: The config so far.
        """
        if not self.steps:
            return {}
        own = drafted.val_dataloader.dataset.pipeline
        with DefaultScope.overwrite_default_scope(drafted.get("default_scope", "mmengine")):
            labels = [step for step in own if getattr(TRANSFORMS.get(step["type"]), "needs_labels", False)]
        pipeline = [*self.steps[:-1], *(dict(step) for step in labels), self.steps[-1]]
        return {"val_dataloader": {"dataset": {"pipeline": pipeline}}}


def borrow(request: Request) -> tuple[Request, Borrowed]:
    """What the option `encoder_from` of a request stands for, and the request with the model and size that follow.

    Raises:
        CheckpointError: The run has no checkpoint, or it is damaged.
        OptionError: Another option contradicts it, or the run's encoder is none that a second head can take.
    """
    if request.encoder_from is None:
        return request, Borrowed()
    if find_model(request.task, request.model).is_student:
        raise OptionError(
            f"encoder_from trains a head on a frozen encoder, but {request.task} trains the encoder itself; give "
            f"weights instead"
        )
    for name, value, allowed in (
        ("encoder", request.encoder, None),
        ("weights", request.weights, None),
        ("tune", request.tune, "frozen"),
    ):
        if value not in (None, allowed):
            raise OptionError(
                f"{name} {value} and encoder_from: the encoder comes from the run and is frozen; remove {name}"
            )
    path = resolve_checkpoint(request.encoder_from).absolute()
    config = read_config(load_checkpoint(path), path)
    task_of(config, path)  # imports what its pipeline is made of
    backbone = config["model"].get("backbone") or {}
    _require_usable(backbone, path)
    steps = tuple(dict(step) for step in inference_pipeline(config))
    preprocessor = {**_PREPROCESSING, **_preprocessing(config)}
    model = _model_name(request, backbone["variant"], path)
    size = request.image_size or _image_size(steps, preprocessor)
    own = {"weights": str(path), "frozen": True, "lora": None, "drop_path": 0.0, "checkpointing": False, "adapt": []}
    settings = {
        "model": {
            "backbone": {**_encoder(backbone), **own},
            "data_preprocessor": preprocessor,
            **_views(request.task, config["model"]),
        }
    }
    line = f"encoder: that of {path}, frozen, with its options and preprocessing; both can share a pass"
    return replace(request, model=model, image_size=size), Borrowed(settings, steps, (line,))


def _require_usable(backbone: Mapping[str, Any], path: Path) -> None:
    if backbone.get("type") != "PEBackbone":
        raise OptionError(
            f"{path}: its backbone is {backbone.get('type')}; encoder_from needs a run with a PEBackbone; for a frozen "
            "encoder of timm, give encoder and weights: the heads can then share its pass too"
        )
    if backbone.get("lora") is not None:
        raise OptionError(
            f"{path}: its encoder has adapters (LoRA); merge them first, and use the merged file: {merge_command(path)}"
        )


def _preprocessing(config: Mapping[str, Any]) -> Section:
    given = config["model"].get("data_preprocessor") or config.get("data_preprocessor") or {}
    return {key: value for key, value in given.items() if key in _PREPROCESSING}


def _encoder(backbone: Mapping[str, Any]) -> Section:
    variant = backbone["variant"]
    described = {"_delete_": True, **variant} if isinstance(variant, Mapping) else variant
    return {"variant": described, **{name: backbone.get(name, value) for name, value in _OPTIONS.items()}}


def _model_name(request: Request, variant: Any, path: Path) -> str:  # noqa: ANN401 - a name or a mapping
    """The model that is asked for, or the task's first, of the size of the run's encoder."""
    sizes = {name: size for size, name in SIZES.items()}
    size = sizes.get(variant) if isinstance(variant, str) else TINY if dict(variant) == TINY_ENCODER else None
    if request.model is None:
        return f"{next(iter(TASKS[find_task(request.task)]))}-{size or TINY}"
    asked = find_model(request.task, request.model)
    if size is not None and asked.size != size:
        family = request.model.rpartition("-")[0]
        raise OptionError(
            f"model {request.model} has another encoder than {path}; give {family}-{size}, which has that of the run"
        )
    return request.model


def _image_size(steps: tuple[Section, ...], preprocessor: Mapping[str, Any]) -> int | None:
    """The side of the pictures that the run sees; None where its pipeline does not resize."""
    if preprocessor["pad_to"]:
        return int(max(preprocessor["pad_to"]))
    for step in steps:
        size = step.get("size") or step.get("max_size")
        if size is not None:
            return int(min(size) if isinstance(size, list | tuple) else size)
    return None


def _views(task: str, model: Mapping[str, Any]) -> Section:
    """How the new model cuts pictures: as the one of the run does, as far as it can."""
    window, tiling = model.get("window"), model.get("tiling")
    if task == "segmentation":
        return {"window": None if window is None else {"_delete_": True, **window}}
    if task != "depth":
        return {}
    if window is None:
        return {"tiling": None if tiling is None else {"_delete_": True, **tiling}}
    tile = to_2tuple(window["size"])
    # two thirds is what a segmenter takes where its config says nothing
    stride = [2 * side // 3 for side in tile] if window.get("stride") is None else to_2tuple(window["stride"])
    return {"tiling": {"_delete_": True, "tile": list(tile), "stride": list(stride)}}
