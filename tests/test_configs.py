"""Every config loads, and everything that it names can be built; the names that we register are ours alone."""

import importlib
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine import registry
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope, Registry

from pe_spatial.backbones import get_variant
from pe_spatial.common.parts import build_options
from pe_spatial.inference.predictor import inference_pipeline
from pe_spatial.tracking.resizing import Resizing
from pe_spatial.training.config import drop_pretrained, dump_config, load_config
from pe_spatial.training.config_files import list_configs

ROOT = Path(__file__).parents[1]
PACKAGES = ("pe_spatial", "detection", "segmentation", "depth", "tracking")
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if not {"_base_", "detectron2"} & {*path.parts})
MAX_LINES = 60
MAX_SETTINGS = 20  # lines of an experiment beside its comments


def name_of(path):
    return str(path.relative_to(ROOT / "configs"))


@pytest.fixture(params=CONFIGS, ids=name_of)
def path(request):
    return request.param


@cache
def resolve(path):
    return load_config(path)


@pytest.fixture
def config(path):
    loaded = deepcopy(resolve(path))
    with DefaultScope.overwrite_default_scope(loaded.get("default_scope", "mmengine")):
        yield loaded


def test_everything_is_built(config):
    """The model without memory, the optimizer's groups, pipelines, metrics and hooks; datasets need their data."""
    drop_pretrained(config.model)
    drop_pretrained(list((config.model.get("teachers") or {}).values()))
    with torch.device("meta"):
        model = MODELS.build(config.model)
    wrapper = config.get("optim_wrapper")
    if wrapper and "constructor" in wrapper:
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper.constructor)
        built = {key: value for key, value in wrapper.items() if key not in ("constructor", "paramwise_cfg")}
        groups = constructor(built, wrapper.get("paramwise_cfg")).parameter_groups(model)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert sum(p.numel() for group in groups for p in group["params"]) == trainable
    for split in ("train", "val", "test"):
        loader = config.get(f"{split}_dataloader")
        if loader:
            assert DATASETS.get(loader.dataset.type) is not None
            steps = loader.dataset.get("pipeline", [])
            Compose([step for step in steps if step["type"] != "LoadTeacherMap"])  # which opens its cache
        evaluator = config.get(f"{split}_evaluator")
        for metric in evaluator if isinstance(evaluator, list) else [evaluator] if evaluator else []:
            METRICS.build(metric)
    for hook in [*(config.get("custom_hooks") or []), *(config.get("default_hooks") or {}).values()]:
        if hook is not None:
            HOOKS.build(hook)


def test_a_resolved_config_is_a_config(config, tmp_path):
    """What a run writes into its folder can be run again."""
    dump_config(config, tmp_path / "resolved.yaml")
    again = load_config(tmp_path / "resolved.yaml")
    assert again.to_dict() == Config(config.to_dict()).to_dict()


def test_a_config_is_one_screen_that_opens_with_what_it_is(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) <= MAX_LINES, f"{len(lines)} lines; a config is one screen of at most {MAX_LINES}"


def test_an_experiment_is_short(path):
    lines = [line.strip() for line in path.read_text().splitlines()]
    count = sum(not line.startswith("#") for line in lines if line)
    assert count <= MAX_SETTINGS, f"{count} lines beside comments; move what is no experiment into configs/_base_"


THIN = [(1, 5000), (3000, 2)]  # for pipelines, which resize by the longer side, too
SIZES = [(1, 1), (37, 500), (500, 37), (128, 128), (700, 1000)]  # (H, W)


def test_every_model_takes_any_picture(config):
    """What is predicted on fits the model's fixed size or its patches, and knows the size of the picture."""
    pictures = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in (*SIZES, *THIN)]
    if "resizing" in config.model:
        resizing = build_options(Resizing, config.model.resizing, "resizing")
        backbone = config.model.backbone
        patch = backbone.get("patch_size") or get_variant(backbone.variant).patch_size
        frames = pictures[: len(SIZES)]
        assert not any(side % patch for frame in frames for side in resizing(frame, patch).shape[-2:])
    if (config.get("val_dataloader") or {}).get("dataset") is None:
        assert config.model.type in ("VideoTracker", "RepeatedMask", "SpatialAlignment")  # have no pipeline
        return
    if config.model.get("slices"):
        assert config.model.slices.size <= min(config.model.data_preprocessor.pad_to)  # windows, whatever the picture
        return
    load, *steps = Compose(inference_pipeline(config)).transforms
    preprocessor = MODELS.build(config.model.data_preprocessor)
    for picture, size in zip(pictures, (*SIZES, *THIN), strict=True):
        packed = Compose(steps)(load({"img": picture, "img_path": None, "img_id": 0}))
        if slices := config.model.get("slices"):  # the model is given windows
            packed["inputs"] = packed["inputs"][:, : slices["size"], : slices["size"]]
            packed["data_samples"].set_metainfo({"img_shape": tuple(packed["inputs"].shape[-2:])})
        batch = preprocessor(pseudo_collate([packed]))
        (sample,) = batch["data_samples"]
        shape = tuple(batch["inputs"].shape[-2:])
        assert tuple(sample.ori_shape) == size
        assert tuple(sample.img_shape) == tuple(packed["inputs"].shape[-2:])
        assert shape == (preprocessor.pad_to or shape)
        assert not any(side % preprocessor.size_divisor for side in shape)


def test_no_pipeline_leaves_a_side_to_torchvision(config):
    """It truncates where the official evaluations round."""
    for split in ("train", "val", "test"):
        for step in ((config.get(f"{split}_dataloader") or {}).get("dataset") or {}).get("pipeline", []):
            package, _, name = step["type"].rpartition(".")
            if package == "torchvision.transforms.v2":
                assert name not in ("ScaleJitter", "RandomShortestSize", "RandomResize")
                assert name != "Resize" or len(step["size"]) == 2  # (H, W)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "demo"], ids=name_of)
def test_scenes_of_the_demo_pass_the_pipelines_unchanged(config):
    """So that the numbers of the demo are those of the pictures themselves."""
    dataset = (config.get("val_dataloader") or {}).get("dataset")
    if dataset is None or dataset.get("data_root") != "demo/data" or config.model.type == "SpatialAlignment":
        pytest.skip("predicts no scenes of the demo")
    picture = torch.randint(256, (3, 128, 128), dtype=torch.uint8)
    load, *steps = Compose(inference_pipeline(config)).transforms
    assert torch.equal(Compose(steps)(load({"img": picture, "img_path": None, "img_id": 0}))["inputs"], picture)


def test_the_image_size_of_a_detector_stands_once():
    config = load_config("deta_pe_spatial_b_coco_12ep", ["_image_size=800"])
    steps = {step.type.rpartition(".")[2]: step for step in config.train_dataloader.dataset.pipeline}
    assert config.model.data_preprocessor.pad_to == [800, 800] and steps["ResizeOrCrop"].size == 800
    assert config.val_dataloader.dataset.pipeline[1].max_size == 768
    config = load_config("pe_g_coco", ["_image_size=512"])
    steps = {step.type.rpartition(".")[2]: step for step in config.train_dataloader.dataset.pipeline}
    assert config.model.data_preprocessor.pad_to == [512, 512] == steps["ScaleJitter"].target_size
    assert steps["FixedSizeCrop"].size == config.val_dataloader.dataset.pipeline[1].max_size == 512


def test_every_recipe_is_listed_with_what_it_is():
    assert list_configs().keys() == {name_of(path) for path in CONFIGS}
    assert all(list_configs().values())


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.name.startswith(("mask_rcnn", "deta_", "deformable_detr", "pe_g"))], ids=name_of
)
def test_a_detector_names_its_command_its_cost_and_its_score(path):
    header = "\n".join(line for line in path.read_text().splitlines()[:15] if line.startswith("#"))
    assert f"--config {name_of(path)}" in header
    assert "Cost:" in header
    assert "Expect" in header


def registered():
    """(registry, name, class) of all that our packages register in mmengine's root registries."""
    for package in PACKAGES:
        if (ROOT / package / "__init__.py").exists():
            importlib.import_module(package)
    for package in ("backbones", "data", "engine", "alignment"):
        if (ROOT / "pe_spatial" / package / "__init__.py").exists():
            importlib.import_module(f"pe_spatial.{package}")
    for kind, root in vars(registry).items():
        if isinstance(root, Registry):
            for name, item in root.module_dict.items():
                if item.__module__.split(".")[0] in PACKAGES:
                    yield kind, name, item


def test_our_names_are_taken_by_nobody():
    """A child registry of mmseg would shadow a name of ours; one of mmcv's would have failed at its registration."""
    pytest.importorskip("mmcv")
    mmseg_registries = pytest.importorskip("mmseg.registry")
    importlib.import_module("mmcv.transforms")
    importlib.import_module("mmseg.utils").register_all_modules(init_default_scope=False)
    ours = list(registered())
    assert {"MaskRCNN", "PEBackbone", "CocoMetric", "DrawSampler"} <= {name for _, name, _ in ours}
    for kind, name, item in ours:
        child = getattr(mmseg_registries, kind, None)
        if child is not None:
            found = child.module_dict.get(name)
            assert found is None or found is item, f"{kind}: {name} is also a name of {found.__module__}"


@pytest.mark.parametrize("model", sorted((ROOT / "configs" / "_base_" / "models").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_model_stands_beside_the_runtime(model, tmp_path):
    """As configs of the user's own, those of version 0.1 too, name both."""
    own = tmp_path / "own.yaml"
    own.write_text(f"_base_: [_base_/runtime.yaml, _base_/models/{model.name}]\n_image_size: 64\n")
    config = load_config(own)
    assert config.model.type and "bind" in config.default_hooks
