"""The recipes of segmentation: every one predicts, and its numbers agree with each other."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from pe_spatial.backbones import get_variant
from pe_spatial.segmentation.windows import Window, check_window
from pe_spatial.training.config import drop_pretrained, load_config

ROOT = Path(__file__).parents[2] / "configs"
# those that segment by words have no head of so many classes: test_open_vocabulary.py and test_text_head.py
WORDS = ("open_vocabulary_", "text_aligned_")
FOUND = [*(ROOT / "segmentation").glob("*.yaml"), *(ROOT / "demo").glob("seg_*.yaml")]
RECIPES = sorted(path for path in FOUND if not path.name.startswith(WORDS))
CLASSES = {"ADE20K": 150, "CocoPanoptic": 133, "InstanceLabels": 81}
PUBLISHED = {"t16": "27.6", "s16": "37.5", "b16": "44.4", "l14": "48.1", "g14": "49.3"}


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: path.stem)
def recipe(request):
    return request.param, load_config(request.param)


def test_there_are_the_recipes_of_the_issue():
    names = {path.stem for path in RECIPES}
    assert {f"linear_pe_spatial_{size}_ade20k_40k" for size in PUBLISHED} <= names
    for size in ("b16", "l14"):
        assert {f"upernet_pe_spatial_{size}_ade20k_160k", f"mask_decoder_pe_spatial_{size}_ade20k_31ep"} <= names
    assert any(name.endswith("12gb") for name in names)


@pytest.mark.parametrize("size", PUBLISHED)
def test_a_probe_names_the_paper_s_number(size):
    text = (ROOT / "segmentation" / f"linear_pe_spatial_{size}_ade20k_40k.yaml").read_text()
    assert f"Expect mIoU {PUBLISHED[size]}" in text
    config = load_config(f"linear_pe_spatial_{size}_ade20k_40k.yaml")
    assert config.train_cfg.max_iters == 40000 and config.train_dataloader.batch_size == 16
    assert config.optim_wrapper.optimizer.type == "AdamW" and config.optim_wrapper.optimizer.lr == 1e-3
    assert check_window(**config.model.window) == Window((512, 512), (341, 341))
    assert config.model.backbone.frozen is True


def test_the_image_size_stands_once():
    config = load_config("linear_pe_spatial_b16_ade20k_40k.yaml", ["_image_size=768"])
    scale, crop = config.train_dataloader.dataset.pipeline[2:4]
    resize = config.val_dataloader.dataset.pipeline[1]
    assert scale.size == crop.size == resize.size == config.model.window.size == 768


def test_it_predicts_scores_of_its_classes(recipe):
    """On the meta device, and of an image that is no multiple of the patch."""
    config = recipe[1]
    drop_pretrained(config.model)
    with torch.device("meta"):
        model = MODELS.build(config.model).eval()
    side = 2 * model.stride
    scores = model.segment_logits(torch.empty(1, 3, side, 2 * side + 1, device="meta"))
    assert scores.shape == (1, config.model.num_classes, side, 2 * side + 1)


def test_patch_classes_and_data_agree(recipe):
    config = recipe[1]
    backbone = config.model.backbone
    patch = backbone.get("patch_size") or get_variant(backbone.variant).patch_size
    assert config.model.data_preprocessor.size_divisor == patch
    # the encoders' own statistics, 0.5 and 0.5 (the preprocessor's default)
    assert not {"mean", "std"} & set(config.model.data_preprocessor)
    assert config.train_dataloader.dataset.type == config.val_dataloader.dataset.type
    drawn = "demo" in config.train_dataloader.dataset.get("data_root", "")
    assert config.model.num_classes == (5 if drawn else CLASSES[config.train_dataloader.dataset.type])
    metrics = config.val_evaluator if isinstance(config.val_evaluator, list) else [config.val_evaluator]
    assert "MeanIoUMetric" in [metric["type"] for metric in metrics]
    assert config.default_hooks.checkpoint.best.split("/")[0] in ("seg", "panoptic")
    assert config.default_hooks.checkpoint.interval % config.train_cfg.val_interval in (
        0,
        config.train_cfg.val_interval / 2,
    )


def test_masks_are_scored_where_objects_are_predicted(recipe):
    config = recipe[1]
    outputs = config.model.get("outputs", ["semantic"])
    metrics = config.val_evaluator if isinstance(config.val_evaluator, list) else [config.val_evaluator]
    names = {metric["type"] for metric in metrics}
    assert ("panoptic" in outputs) == ("PanopticMetric" in names)
    assert ("instance" in outputs) == ("CocoMetric" in names)
    if config.model.type == "MaskDecoder":
        assert config.default_hooks.annealing.type == "MaskAnnealingHook"


def test_a_recipe_opens_with_its_command_and_says_what_is_known(recipe):
    path, _ = recipe
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"--config {path.parent.name}/{path.name}" in header or f"--config {path.name}" in header
    if path.parent.name == "segmentation":
        assert "not measured" in header or "measured" in header or "Cost:" in header
    assert max(map(len, path.read_text().splitlines())) <= 120


def test_the_backbone_of_a_mask_decoder_may_be_sharded():
    """The units of FullyShardedModel that docs/guides/segmentation.md names are there."""
    config = load_config("demo/seg_mask_decoder_tiny_shapes.yaml")
    with DefaultScope.overwrite_default_scope("mmengine"), torch.device("meta"):
        model = MODELS.build(config.model)
    assert any(name == "backbone.encoder.transformer.resblocks.0" for name, _ in model.named_modules())
