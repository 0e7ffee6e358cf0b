"""Every registered backbone, model and transform keeps `pe_spatial.common.contracts`."""

import inspect
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.model import BaseModel
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from torch import Tensor, nn

import pe_spatial.alignment
import pe_spatial.depth
import pe_spatial.detection
import pe_spatial.segmentation
import pe_spatial.tracking  # noqa: F401 - like those above, it registers its parts
from pe_spatial.backbones import PEBackbone
from pe_spatial.common.contracts import Backbone, Loader, Model
from pe_spatial.inference.predictor import inference_pipeline
from pe_spatial.training.config import load_config
from pe_spatial.training.layer_probes import SharedEncoder

CONFIGS = Path(__file__).parents[1] / "configs"
# recipes that differ in the encoder alone have one pipeline: one of each kind will do
RECIPES = {
    (path.parent, path.stem.partition("_pe_")[0]): path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if not {"_base_", "detectron2"} & {*path.parts}
}.values()


def registered(registry):
    found = registry.module_dict.items()
    return [part for _, part in sorted(found) if inspect.isclass(part) and part.__module__.startswith("pe_spatial.")]


def is_backbone(part):
    """Whatever turns one tensor into a tuple of tensors."""
    if not issubclass(part, nn.Module) or issubclass(part, BaseModel):
        return False
    hints = get_type_hints(part.forward)
    return hints.pop("return", None) == tuple[Tensor, ...] and list(hints.values()) == [Tensor]


TINY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 2, "cls_token": False}
BACKBONES = {
    "PEBackbone": lambda: {"variant": TINY, "layers": [0, 1]},
    "OneOfManyMaps": lambda: {"shared": SharedEncoder(PEBackbone(TINY)), "index": 0},
    "RawColor": dict,
    "TimmBackbone": lambda: {"model": "test_vit", "layers": [0, 5]},
}


@pytest.mark.parametrize("part", [*filter(is_backbone, registered(MODELS))], ids=lambda part: part.__name__)
def test_backbones_return_the_maps_that_they_announce(part):
    backbone = MODELS.build({"type": part.__name__, **BACKBONES[part.__name__]()}).eval()
    assert isinstance(backbone, Backbone)
    size = (2 * backbone.patch_size, 3 * backbone.patch_size)
    maps = backbone(torch.rand(2, 3, *size))
    announced = [
        (2, channels, size[0] // stride, size[1] // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert [tuple(features.shape) for features in maps] == announced
    layers = [backbone.layer_of(name) for name, _ in backbone.named_parameters() if "shared" not in name]
    assert min(layers, default=0) == 0
    with pytest.raises(KeyError):
        backbone.layer_of("no.such.parameter")


def test_the_registered_backbones_are_found():
    assert {part.__name__ for part in filter(is_backbone, registered(MODELS))} == BACKBONES.keys()


# --- models -----------------------------------------------------------------------------------------------------------
BASE_MODELS = [part for part in registered(MODELS) if issubclass(part, BaseModel)]


@pytest.mark.parametrize("model", BASE_MODELS, ids=lambda part: part.__name__)
def test_every_model_names_its_task_and_takes_the_modes(model):
    assert isinstance(inspect.getattr_static(model, "task"), str | property)
    assert list(inspect.signature(model.forward).parameters)[1:] == ["inputs", "data_samples", "mode"]
    assert isinstance(model, Model) or isinstance(inspect.getattr_static(model, "task"), property)


def test_the_four_tasks_have_models():
    tasks = {model.task for model in BASE_MODELS if isinstance(model.task, str)}
    assert tasks >= {"detection", "segmentation", "depth", "tracking"}


# --- transforms -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipelines():
    """Every different pipeline of the recipes: (name of a recipe that has it, its scope, the config of the loader)."""
    found = {}
    for path in RECIPES:
        config = load_config(path)
        for split in ("train", "val", "test"):
            loader = config.get(f"{split}_dataloader") or {}
            steps = (loader.get("dataset") or {}).get("pipeline")
            if steps:
                found.setdefault(str(steps), (path.name, config.get("default_scope", "mmengine"), loader))
    return list(found.values())


def image_alone():
    return {"img": np.zeros((480, 640, 3), np.uint8), "img_path": "a.jpg", "img_id": 0}


def test_an_image_alone_passes_every_step_that_does_not_ask_for_labels(pipelines):
    """Training pipelines too: each of our steps that stands in a recipe, with the settings that it has there."""
    seen = set()
    for recipe, scope, loader in pipelines:
        with DefaultScope.overwrite_default_scope(scope), TRANSFORMS.switch_scope_and_registry(None) as registry:
            for step in map(dict, loader["dataset"]["pipeline"]):
                part = registry.get(step["type"])
                if part not in registered(TRANSFORMS) or getattr(part, "needs_labels", False) or str(step) in seen:
                    continue
                seen.add(str(step))
                assert Compose([{"type": "LoadImage"}, step])(image_alone()), f"{recipe}: {step}"
    assert len(seen) > 5


def test_every_inference_pipeline_of_the_recipes_takes_an_image_alone(pipelines):
    for recipe, scope, loader in pipelines:
        steps = inference_pipeline({"val_dataloader": loader})
        if steps[0]["type"] != "LoadImage" or "train" in str(loader["dataset"].get("ann_file")):
            continue
        with DefaultScope.overwrite_default_scope(scope):
            packed = Compose(steps)(image_alone())
        assert packed["inputs"].dtype == torch.uint8, recipe
        assert not [key for key in set(packed["data_samples"].keys()) if key.startswith("gt_")], recipe


def test_loaders_of_labels_are_known_by_their_class():
    loaders = {part.__name__: part.needs_labels for part in registered(TRANSFORMS) if issubclass(part, Loader)}
    assert loaders.pop("LoadImage") is False
    assert loaders and all(loaders.values())
    named = {part.__name__ for part in registered(TRANSFORMS) if part.__name__.startswith("Load")}
    assert loaders.keys() == named - {"LoadImage"}
