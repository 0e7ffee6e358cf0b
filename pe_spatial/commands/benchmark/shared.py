"""Several heads on one frozen pass against each of them alone: `pe-spatial benchmark shared`."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from pe_spatial.backbones import PEBackbone
from pe_spatial.commands.benchmark.measuring import clock_of, show, take_turns, timed
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.shared import SharedPredictor
from pe_spatial.inference.tasks import open_predictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config

RECIPES = {
    "det": "own/detection_mask_rcnn.yaml",
    "seg": "own/segmentation_linear.yaml",
    "depth": "own/depth_linear.yaml",
    "dpt": "own/depth_dpt.yaml",
}
CLASSES = 20


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Predict the same pictures with each model alone and with all, show and return the figures."""
    torch.manual_seed(0)
    encoder = {"type": "PEBackbone", "variant": options.variant, "frozen": True}
    backbone: PEBackbone = MODELS.build(dict(encoder))
    side = options.image_size
    with TemporaryDirectory() as folder:
        paths = {
            name: save_model(Path(folder) / f"{name}.pth", RECIPES[name], encoder, backbone.state_dict(), side)
            for name in options.heads
        }
        shared = SharedPredictor(paths, options.device, must_share="pass")
        alone = {name: open_predictor(path, options.device, 1, []) for name, path in paths.items()}
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (side * 3 // 4, side, 3), np.uint8) for _ in range(options.pictures)]
    predictors: dict[str, Predictor | SharedPredictor] = {**alone, "shared": shared}
    ways: dict[str, Callable[[int], float]] = {
        name: partial(_seconds, predictor, pictures, options) for name, predictor in predictors.items()
    }
    turns = take_turns(ways, options.rounds)
    singles = list(zip(*(turns[name] for name in paths), strict=True))  # of each round
    figures = {
        "variant": options.variant,
        "picture": f"{side * 3 // 4}x{side}",
        "heads": ",".join(paths),
        **{f"{name}_s": statistics.median(values) / options.pictures for name, values in turns.items()},
        "shared_over_slowest": statistics.median(
            ours / max(theirs) for ours, theirs in zip(turns["shared"], singles, strict=True)
        ),
        "shared_over_sum": statistics.median(
            ours / sum(theirs) for ours, theirs in zip(turns["shared"], singles, strict=True)
        ),
        "difference": largest_difference(shared, alone, pictures[0]),
    }
    show(figures)
    return figures


def _seconds(predictor: Predictor | SharedPredictor, pictures: Any, options: argparse.Namespace, _: int) -> float:  # noqa: ANN401
    return timed(partial(predictor, pictures), clock_of(options.device, options.clock))


def save_model(path: Path, recipe: str, encoder: dict[str, Any], weights: dict[str, Tensor], side: int) -> Path:
    """A checkpoint of the model of a recipe, with random heads, on an encoder that sees whole pictures."""
    config = load_config(recipe)
    model = config.model
    model.backbone = encoder
    if "num_classes" in model:
        model.num_classes = CLASSES
    model.data_preprocessor = {"type": "DensePreprocessor", "size_divisor": 16}
    for view in ("window", "tiling"):
        if view in model:
            model[view] = None
    resize = {"type": "KeepRatioResize", "max_size": side}
    config.val_dataloader.dataset.pipeline = [{"type": "LoadImage"}, resize, {"type": "PackSample"}]
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        built = MODELS.build(model.to_dict())
    built.backbone.load_state_dict(weights)
    metainfo = {"classes": [f"class {number}" for number in range(model.get("num_classes") or 0)]}
    save_checkpoint({"state_dict": built.state_dict(), "pe_spatial": describe(config.to_dict(), metainfo)}, path)
    return path


def largest_difference(shared: SharedPredictor, alone: dict[str, Predictor], picture: Any) -> float:  # noqa: ANN401
    """Between the maps and scores of one picture, predicted together and alone."""
    together, worst = shared(picture), 0.0
    for name, predictor in alone.items():
        single = predictor(picture)
        for field in single.keys():  # noqa: SIM118 - no mapping
            a, b = (_numbers(sample.get(field)) for sample in (together[name], single))
            if a.shape != b.shape:
                return float("inf")
            worst = max(worst, float((a - b).abs().max()) if a.numel() else 0.0)
    return worst


def _numbers(field: Any) -> Tensor:  # noqa: ANN401 - PixelData or InstanceData
    return (field.data if "data" in field else field.scores).float().cpu()
