"""Configs and checkpoints of version 0.1 still load."""

import json

import pytest
from mmengine.registry import MODELS

import pe_spatial.tracking  # noqa: F401 - registers
from pe_spatial.training import old_names
from pe_spatial.training.checkpoint import read_config
from pe_spatial.training.config import load_config
from pe_spatial.training.config_files import find_config
from pe_spatial.training.old_names import current_name, update_names

# between them they name every hook
RECIPES = ("demo/deta_tiny_shapes", "demo/seg_mask_decoder_tiny_shapes", "demo/alignment_tiny_shapes")

# a recipe of version 0.1 as it stood in a folder of the user's
OLD_TRACKER = """
_base_: [_base_/runtime.yaml, _base_/datasets/davis2017.yaml]
custom_imports: {imports: [tracking, detection.metrics]}
model:
  type: VideoTracker
  backbone: {type: RawColour, patch_size: 16}
  resizing: {short_side: 480}
  normalisation: {type: DensePreprocessor, std: [127, 127, 127]}
test_evaluator:
  - {type: tracking.metrics.JFMetric}
"""


def test_an_old_config_loads(tmp_path):
    (tmp_path / "old.yaml").write_text(OLD_TRACKER)
    config = load_config(tmp_path / "old.yaml")
    assert config.custom_imports.imports == ["pe_spatial.tracking", "pe_spatial.detection.metrics"]
    assert config.model.backbone.type == "RawColor"
    assert config.model.normalization.std == [127, 127, 127] and "normalisation" not in config.model
    assert config.test_evaluator[0].type == "pe_spatial.tracking.metrics.JFMetric"


def test_the_config_of_an_old_checkpoint_has_new_names():
    old = {
        "custom_imports": {"imports": "depth"},
        "custom_hooks": [{"type": "BindDatasetHook"}],
        "model": {"type": "VideoTracker", "normalisation": None},
    }
    content = {"pe_spatial": {"format_version": 1, "config": json.dumps(old)}}
    config = read_config(content, "old.pth")
    assert config["custom_imports"] == {"imports": ["pe_spatial.depth"]}
    assert config["model"] == {"type": "VideoTracker", "normalization": None}
    assert config["default_hooks"] == {"bind": {"type": "BindDatasetHook"}} and config["custom_hooks"] == []


def test_hooks_of_the_old_list_get_their_names():
    """One of each: a second one, and hooks that never had a name, stay in the list."""
    start, second, average = (
        {"type": "DetaStartHook", "reinitialize": ["x"]},
        {"type": "DetaStartHook"},
        {"type": "EMAHook"},
    )
    config = {
        "default_hooks": {"start": {"type": "DetaStartHook"}, "timer": None},
        "custom_hooks": [start, average, second],
    }
    assert update_names(config) == {
        "default_hooks": {"start": start, "timer": None},
        "custom_hooks": [average, second],
    }
    assert update_names({"custom_hooks": None}) == {"custom_hooks": None}


def test_the_names_of_hooks_are_those_of_the_recipes():
    recipes = [load_config(name).default_hooks for name in RECIPES]
    named = {hook.type: name for hooks in recipes for name, hook in hooks.items() if hook}
    assert {hook: named.get(hook) for hook in old_names.HOOKS} == old_names.HOOKS


def test_new_configs_stay_as_they_are():
    config = load_config("demo/mask_rcnn_tiny_shapes.yaml").to_dict()
    assert update_names(json.loads(json.dumps(config))) == json.loads(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "current"),
    [
        ("depth", "pe_spatial.depth"),
        ("depth.model.DepthModel", "pe_spatial.depth.model.DepthModel"),
        ("pe_spatial.engine", "pe_spatial.training"),
        ("pe_spatial.depth", "pe_spatial.depth"),
        ("depths", "depths"),
        ("my.depth", "my.depth"),
        ("DepthModel", "DepthModel"),
    ],
)
def test_modules(name, current):
    assert current_name(name) == current


def test_every_new_name_exists():
    for old, new in old_names.RECIPES.items():
        assert find_config(old).stem == new
    for name in old_names.TYPES.values():
        assert name in MODELS.module_dict
