"""Targets of Mask R-CNN from polygons: those of Detectron2, through the recipe, the losses and whole runs."""

import copy

import numpy as np
import official_polygons as official
import pytest
import simulated_device
import torch
from children import CONTEXT
from mmengine.dataset import Compose
from small_runs import CONFIG, overrides, write_strips
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import ConfigError
from pe_spatial.data import FixedSizeCrop, Polygons, to_bitmaps
from pe_spatial.detection.mask_rcnn.mask_head import crop_masks
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

needs_coco = pytest.mark.skipif(not official.COCO_TINY.is_dir(), reason="no real data beside the repository")


def transform(case):
    polygons = Polygons([case.rings], case.size)
    if case.is_flipped:
        polygons = F.horizontal_flip(polygons)
    x, y, width, height = case.window
    return F.crop(F.resize(polygons, list(case.resized)), y, x, height, width).outlines[0]


def targets_of(rings, boxes):
    index = torch.zeros(len(boxes), dtype=torch.int64)
    return crop_masks([rings], index, torch.from_numpy(boxes), official.CELLS).numpy()


# --- the rules of Detectron2 ------------------------------------------------------------------------------------------
def test_crops_are_those_of_shapely():
    golden = np.load(official.GOLDEN)
    left, boxes, targets = official.results(official.made_objects(), 100, transform, targets_of)
    assert (left == golden["left"]).all() and not left.all()
    np.testing.assert_allclose(boxes, golden["boxes"], rtol=0, atol=1e-4)
    assert (np.packbits(targets, axis=-1) == golden["targets"]).all()


@needs_coco
def test_coco_after_jitter_and_crops_is_that_of_shapely():
    golden = np.load(official.GOLDEN)
    left, boxes, targets = official.results(official.coco_objects(), 1024, transform, targets_of)
    assert [len(left), len(boxes)] == golden["coco_counts"].tolist()
    assert official.digest(boxes, targets) == str(golden["coco"])


@pytest.mark.parametrize(
    "objects", [official.made_objects, pytest.param(official.coco_objects, marks=needs_coco)], ids=["made", "coco"]
)
@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("resized", [None, (313, 407)], ids=["as it is", "resized"])
def test_targets_and_boxes_without_a_crop(objects, is_flipped, resized):
    for rings, size in objects()[::5]:
        ours, theirs, after = Polygons([rings], size), rings, resized or size
        if is_flipped:
            ours, theirs = F.horizontal_flip(ours), official.flip(theirs, size[1])
        ours, theirs = F.resize(ours, list(after)), official.resize(theirs, size, after)
        box = official.box_of(theirs)
        assert (ours.as_subclass(torch.Tensor).numpy() == box).all()
        boxes = official.proposals(box)
        assert (targets_of(ours.outlines[0], boxes) == official.official_targets(theirs, boxes)).all()


@pytest.mark.parametrize("config", ["pe_g_coco.yaml", "detection/mask_rcnn_pe_core_g_lvis_75ep.yaml"])
def test_the_official_recipes_train_on_polygons(config, monkeypatch):
    """The whole pipeline of the recipe but for reading the picture: flipped, resized, cropped, fitted and packed."""
    windows = []
    monkeypatch.setattr(
        FixedSizeCrop, "transform", lambda self, x, window: windows.append(window) or F.crop(x, **window)
    )
    settings = load_config(config).train_dataloader.dataset.pipeline
    assert settings[1].mask_format == "polygon"
    settings[2].p = 1.0
    for step in settings:
        if "scale_range" in step:
            step.scale_range = [0.4, 0.9]  # nothing is cut
    objects = official.made_objects(20)
    instances = [
        {"bbox": [0, 0, 120, 90], "label": 1, "mask": [r.ravel().tolist() for r in rings]} for rings, _ in objects
    ]
    image = tv_tensors.Image(torch.zeros(3, 90, 120, dtype=torch.uint8))
    sample = Compose(settings[1:])({"img": image, "ori_shape": (90, 120), "instances": instances})
    after = (windows[0]["height"], windows[0]["width"])
    found = sample["data_samples"].gt_instances
    expected = [official.resize(official.flip(rings, 120), (90, 120), after) for rings, _ in objects]
    for box, rings, outline in zip(found.bboxes.numpy(), expected, found.masks, strict=True):
        if len(rings[0]) == 4:  # the spike is gone, which cuts its box
            continue
        np.testing.assert_allclose(box, official.box_of(rings), rtol=0, atol=1e-4)
        boxes = official.proposals(official.box_of(rings))
        assert (targets_of(outline, boxes) == official.official_targets(rings, boxes)).all()


def test_bitmaps_differ_in_a_few_cells():
    shares = []
    for case in official.cases(official.made_objects(), 100):
        rings = transform(case)
        if not rings:
            continue
        boxes = official.proposals(official.box_of(rings))
        bitmap = to_bitmaps(Polygons([rings], case.window[:1:-1]))
        index = torch.zeros(len(boxes), dtype=torch.int64)
        cropped = crop_masks(bitmap.as_subclass(torch.Tensor), index, torch.from_numpy(boxes), official.CELLS).numpy()
        shares.append((cropped != targets_of(rings, boxes)).mean())
    assert 0.005 < np.mean(shares) < 0.08


def test_a_box_without_width_and_an_object_without_rings():
    square = np.array([[1.0, 1], [5, 1], [5, 5], [1, 5]])
    boxes = torch.tensor([[1.0, 1, 1, 5], [1, 1, 5, 5], [1, 1, 5, 5]])
    targets = crop_masks([[square], []], torch.tensor([0, 0, 1]), boxes, official.CELLS)
    assert targets.flatten(1).all(1).tolist() == [True, True, False] and not targets[2].any()
    assert crop_masks([], torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), 28).shape == (0, 28, 28)


# --- losses and devices -----------------------------------------------------------------------------------------------
def outlined(scene):
    """The scene with the same rectangles as polygons."""
    scene = copy.deepcopy(scene)
    objects = scene["data_samples"].gt_instances
    corners = objects.bboxes.numpy().astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    del objects.masks
    objects.masks = [[ring] for ring in corners]
    return scene


@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)], ids=["full", "one empty", "all empty"])
def test_both_formats_have_the_same_losses_but_for_the_masks(make_model, make_scene, collate, objects):
    scenes = [make_scene(seed, count) for seed, count in enumerate(objects)]
    losses = []
    for each in (scenes, [outlined(scene) for scene in scenes]):
        model = make_model()
        torch.manual_seed(0)
        losses.append(model(**model.data_preprocessor(collate(copy.deepcopy(each)), training=True), mode="loss"))
    bitmask, polygon = ({name: loss.item() for name, loss in each.items()} for each in losses)
    assert bitmask.pop("loss_mask") == pytest.approx(polygon.pop("loss_mask"), rel=0.05)
    assert bitmask == polygon
    losses[1]["loss_mask"].backward()


def test_an_object_without_area_is_left_out(make_model, make_scene, collate):
    model, scene = make_model(), outlined(make_scene(0))
    scene["data_samples"].gt_instances.bboxes[0, 2] = scene["data_samples"].gt_instances.bboxes[0, 0]
    target = model._target(scene["data_samples"], torch.zeros(1))
    assert len(target.boxes) == len(target.masks) == 1
    assert (target.masks[0][0] == scene["data_samples"].gt_instances.masks[1][0]).all()


@pytest.mark.skipif(not simulated_device.IS_POSSIBLE, reason="this torch cannot register a device written in Python")
def test_targets_are_on_the_device_of_the_boxes():
    process = CONTEXT.Process(target=check_device)
    process.start()
    process.join(100)
    assert process.exitcode == 0


def check_device():
    simulated_device.register()
    square = np.array([[1.0, 1], [5, 1], [5, 5], [1, 5]])
    with simulated_device.simulating():
        boxes = torch.tensor([[1.0, 1, 9, 5]]).to(simulated_device.DEVICE)
        targets = crop_masks([[square]], torch.tensor([0]).to(simulated_device.DEVICE), boxes, 28)
        assert targets.device == boxes.device
        assert targets.cpu().sum() == 28 * 14


# --- whole runs -------------------------------------------------------------------------------------------------------
def run_all(runs):
    torch.set_num_threads(1)
    for changes, work_dir, resume in runs:
        config = load_config(CONFIG, changes)
        config.work_dir = str(work_dir)
        train(config, resume)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_a_resumed_run_equals_the_whole_one(tmp_path, mask_format):
    """With workers, to which polygons travel, and without."""
    write_strips(tmp_path / "data")
    options = [f"_mask_format={mask_format}", "default_hooks.checkpoint.interval=1"]
    whole, part = ([*overrides(tmp_path / "data", count), *options] for count in (2, 1))
    whole_in_workers = [*whole, "train_dataloader.num_workers=1"]
    runs = [(whole_in_workers, tmp_path / "whole", "no"), (part, tmp_path / "parts", "no")]
    process = CONTEXT.Process(target=run_all, args=([*runs, (whole, tmp_path / "parts", "yes")],))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    ours, theirs = (load_checkpoint(tmp_path / name / "iter_2.pth")["state_dict"] for name in ("parts", "whole"))
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())


def test_an_unknown_format_in_a_config_is_refused():
    with pytest.raises(ConfigError, match="mask_format: 'polygons' is not one of bitmask, polygon"):
        load_config(CONFIG, ["_mask_format=polygons"])
