"""The recipes: every one builds, and its numbers agree with each other."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import METRICS, MODELS, TRANSFORMS

import pe_spatial.depth  # noqa: F401 - registers the names of the task
from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.training.config import load_config

ROOT = Path(__file__).parents[2] / "configs"
RECIPES = sorted([*(ROOT / "depth").glob("*.yaml"), *(ROOT / "demo").glob("depth_*.yaml")])


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return request.param, load_config(request.param)


def test_there_are_recipes_for_every_size():
    names = {path.stem for path in RECIPES}
    for size in ("t16", "s16", "b16", "l14", "g14"):
        assert f"linear_pe_spatial_{size}_nyu_38k" in names
        assert f"dpt1_pe_spatial_{size}_nyu_20ep" in names


def test_it_builds_and_predicts_on_the_meta_device(recipe, monkeypatch):
    # what is judged is that the maps fit the head; the 50 blocks of G only take time
    monkeypatch.setattr(VisionTransformer, "run_block", lambda self, i, x, *context: x)
    config = recipe[1]
    config.model.backbone.pop("weights", None)
    with torch.device("meta"):
        model = MODELS.build(config.model)
    divisor = config.model.data_preprocessor.size_divisor
    least, greatest = config.model.head.depth_range
    assert model(torch.empty(1, 3, 2 * divisor, 3 * divisor, device="meta")).shape == (1, 1, 2 * divisor, 3 * divisor)
    assert (least, greatest) == model.head.depth_range


def test_patch_range_and_metric_agree(recipe):
    config = recipe[1]
    assert config.model.data_preprocessor.size_divisor == get_variant(config.model.backbone.variant).patch_size
    weights = config.model.backbone.get("weights")
    assert weights is None or weights == config.model.backbone.variant
    ranges = [
        config.model.head.depth_range,
        config.train_dataloader.dataset.depth_range,
        config.val_dataloader.dataset.depth_range,
        config.val_evaluator.depth_range,
    ]
    assert all(list(each) == list(ranges[0]) for each in ranges)
    METRICS.build(config.val_evaluator)


def test_the_pipelines_build_and_end_alike(recipe):
    config = recipe[1]
    for loader in (config.train_dataloader, config.val_dataloader):
        for step in loader.dataset.pipeline:
            TRANSFORMS.build(step)
        assert loader.dataset.pipeline[-1]["type"] == "PackSample"
    # nothing resizes after the depth of a validation sample is loaded: it is judged at its own resolution
    assert config.val_dataloader.dataset.pipeline[-2]["type"] == "LoadDepthMap"


def test_validation_and_checkpoints_fit_the_schedule(recipe):
    config = recipe[1]
    warm_up, cosine = config.param_scheduler
    assert warm_up.end == cosine.begin < config.train_cfg.max_iters
    checkpoint = config.default_hooks.checkpoint
    assert checkpoint.best in ("depth/rmse", "depth/abs_rel") and checkpoint.rule == "less"


def test_a_recipe_opens_with_its_command_and_says_what_is_known(recipe):
    path, _ = recipe
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    command = f"python tools/train_net.py --config {'demo/' if path.parent.name == 'demo' else ''}{path.name}"
    assert any(command in line for line in header), "the command is missing"
    assert path.parent.name == "demo" or any("not measured" in line for line in header)
