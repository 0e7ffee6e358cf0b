"""From data to a config: what is recognized, what is refused, and that the short way and the full way are one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pe_spatial.common.errors import MissingPackage, UserError
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.training import loggers
from pe_spatial.training.config import dump_config, load_config

FORMATS = Path(__file__).parents[1] / "data" / "formats"
BOXES = {"task": "detection", "model": "mask_rcnn-tiny", "data": FORMATS / "yolo_boxes"}


def config_of(**options):
    return compose(Request(**{**BOXES, **options})).config


@pytest.mark.parametrize(
    ("task", "model", "name"),
    [
        ("detection", "mask_rcnn-tiny", "coco_datumaro"),
        ("detection", "deta-t", "voc"),
        ("detection", "mask_rcnn-g", "labelme"),
        ("instances", "mask_rcnn-s", "yolo_polygons"),
        ("instances", "mask_rcnn-tiny", "object_masks"),
        ("segmentation", "mask_decoder-l", "masks_described"),
        ("segmentation", "linear-g", "masks_described"),
        ("panoptic", "mask_decoder-tiny", "panoptic"),
        ("depth", "dpt-s", "depth_png"),
        ("depth", "linear-tiny", "depth_npy"),
    ],
)
def test_the_printed_config_is_the_run(task, model, name, tmp_path):
    composition = compose(Request(task, FORMATS / name, model=model, epochs=3))
    dump_config(composition.config, tmp_path / "printed.yaml")
    assert load_config(tmp_path / "printed.yaml").to_dict() == composition.config.to_dict()
    text = "\n".join(composition.lines)
    assert "recipe: own/" in text and "learning rate: " in text and "3.0 epochs" in text


def test_boxes_without_masks_make_a_detector_of_boxes():
    composition = compose(Request(**BOXES))
    config = composition.config
    assert config.model.roi_heads.masks is False and config.val_evaluator.iou_types == ["bbox"]
    assert config.train_dataloader.dataset.pipeline[1].masks is False
    assert "boxes only: 2 of 2 objects have no mask" in composition.lines


def test_bitmaps_are_loaded_as_such_and_polygons_as_such():
    for name, form in (("object_masks", "bitmask"), ("yolo_polygons", "polygon")):
        config = compose(Request("instances", FORMATS / name, model="mask_rcnn-tiny")).config
        assert config.train_dataloader.dataset.pipeline[1].mask_format == form


def test_what_the_data_says_is_in_the_config():
    panoptic = compose(Request("panoptic", FORMATS / "panoptic", model="mask_decoder-tiny")).config
    (file,) = (FORMATS / "panoptic" / "annotations").glob("*.json")
    are_things = [category["isthing"] for category in json.loads(file.read_text())["categories"]]
    assert panoptic.model.num_classes == len(are_things)
    assert panoptic.model.things == [label for label, is_thing in enumerate(are_things) if is_thing]
    depth = compose(Request("depth", FORMATS / "depth_npy", model="dpt-tiny")).config
    least, greatest = depth.model.head.depth_range
    values = np.concatenate([np.load(path).ravel() for path in (FORMATS / "depth_npy" / "depth").glob("*.npy")])
    assert least <= values[values > 0].min() < 1.1 * least and greatest / 1.1 < values.max() <= greatest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"task": "segmentation", "model": None},
            "which cannot be used for segmentation; use it for detection, instances",
        ),
        ({"task": "instances", "data": FORMATS / "voc"}, "2 of 2 objects have no mask, but the task instances"),
        ({"data": FORMATS / "depth_png"}, "contains depth pairs, which cannot be used for detection; use it for depth"),
        ({"data": FORMATS / "video"}, "which cannot be used for detection; use it for alignment"),
        ({"task": "segmentation", "model": None, "data": FORMATS / "masks_ids"}, "their meaning is not known: write"),
        ({"batch_size": 3}, "a batch of 3 pictures, but the training part has 1"),
        ({"split": "train,test"}, "has no split 'test'"),
        ({"split": "train,train"}, "give the name of the training part, or TRAIN,VAL"),
        ({"image_size": 100}, "image_size 100 is not a multiple of the patch size 16; take 96 or 112$"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"epochs": 0}, "epochs 0 must be above 0"),
        ({"epochs": 1, "iterations": 1}, "epochs and iterations are both given"),
        ({"lr": 0}, "lr 0 must be above 0"),
        ({"tune": "partly"}, "tune 'partly' is not one of full, frozen, lora"),
        ({"overrides": ["model.nek=1"]}, "MaskRCNN has no option 'nek'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        config_of(**options)


def test_a_smaller_batch_is_said_and_the_rate_follows_the_effective_batch():
    composition = compose(Request(**BOXES, accumulate=4))
    assert composition.config.train_dataloader.batch_size == 1
    assert "batch: 1 instead of 4, because the training part has no more pictures" in composition.lines
    assert "learning rate: 0.0005 = 0.001 of a batch of 16 x sqrt(4 / 16)" in composition.lines
    assert config_of(lr=0.3).optim_wrapper.optimizer.lr == 0.3
    assert config_of(overrides=["optim_wrapper.optimizer.lr=0.2"]).optim_wrapper.optimizer.lr == 0.2


def test_more_processes_make_an_epoch_shorter(tmp_path, monkeypatch):
    data = ten_pictures(tmp_path)
    iterations = []
    for processes in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        iterations.append(config_of(data=data, batch_size=2, epochs=4).train_cfg.max_iters)
    assert iterations == [16, 8]  # of the eight pictures that are not held out


def ten_pictures(folder):
    """The YOLO dataset with ten different pictures and one part."""
    data = Path(shutil.copytree(FORMATS / "yolo_label_studio", folder / "ten"))
    label = next((data / "labels").iterdir()).read_text()
    for kind in ("labels", "images"):
        shutil.rmtree(data / kind)
        (data / kind).mkdir()
    for number in range(10):
        Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(data / "images" / f"{number}.png")
        (data / "labels" / f"{number}.txt").write_text(label)
    return data


def test_a_part_is_held_out_where_there_is_none(tmp_path):
    composition = compose(Request(**{**BOXES, "data": ten_pictures(tmp_path)}, seed=3))
    train, val = (composition.config[f"{part}_dataloader"].dataset for part in ("train", "val"))
    assert train.holdout == {"part": "train", "share": 0.2, "seed": 3}
    assert val.holdout == {"part": "val", "share": 0.2, "seed": 3}
    assert any("20% of all are held out" in line for line in composition.lines)


def test_classes_of_one_part_are_named():
    lines = compose(Request(**BOXES)).lines
    assert "  classes that occur in training only, so that no score tells of them: 1 (dog)" in lines


# --- knobs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        ({"ema": True}, "default_hooks.ema.type", "EMAHook"),
        ({"ema": True, "iterations": 2000}, "default_hooks.ema.momentum", 0.01),
        ({"early_stopping": 3}, "default_hooks.early_stopping.patience", 3),
        ({"early_stopping": 3}, "default_hooks.early_stopping.monitor", "coco/bbox_mAP"),
        ({"early_stopping": 3}, "default_hooks.early_stopping.min_delta", 0.0),
        ({"accumulate": 4}, "optim_wrapper.accumulative_counts", 4),
        ({"clip": 0.5}, "optim_wrapper.clip_grad", {"max_norm": 0.5}),
        ({"clip": 0}, "optim_wrapper.clip_grad", None),
        ({"precision": "bf16"}, "optim_wrapper.type", "Bf16OptimWrapper"),
        ({"precision": "fp32"}, "optim_wrapper.type", "OptimWrapper"),
        ({"image_size": 96}, "model.data_preprocessor.pad_to", [96, 96]),
        ({"workers": 0}, "val_dataloader.num_workers", 0),
        ({"seed": 7}, "randomness.seed", 7),
        ({"weight_decay": 0.2}, "optim_wrapper.optimizer.weight_decay", 0.2),
        ({"logger": "csv"}, "visualizer.vis_backends.0.type", "CsvVisBackend"),
        ({"tune": "frozen"}, "model.backbone.frozen", True),
        ({"tune": "lora"}, "model.backbone.lora", {"rank": 8}),
        ({"model": "mask_rcnn-t"}, "model.backbone.weights", "PE-Spatial-T16-512"),
        ({"model": "mask_rcnn-t", "weights": "none"}, "model.backbone.weights", None),
    ],
)  # fmt: skip
def test_a_knob_is_an_entry_of_the_config(options, key, value):
    node = config_of(**options)
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert node == value


@pytest.mark.parametrize("name", ["wandb", "mlflow", "clearml"])
def test_a_logger_that_is_not_installed_is_one_line(name, monkeypatch):
    monkeypatch.setattr(loggers, "is_there", lambda package: False)
    with pytest.raises(MissingPackage, match=f"logger {name} needs the package {name}.*pip install {name}"):
        config_of(logger=name)


@pytest.mark.parametrize(
    ("name", "variable"), [("wandb", "WANDB_API_KEY"), ("wandb", "WANDB_MODE"), ("clearml", "CLEARML_API_ACCESS_KEY")]
)
def test_a_logger_without_credentials_is_refused_before_anything_starts(name, variable, monkeypatch, tmp_path):
    monkeypatch.setattr(loggers, "is_there", lambda package: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    for each in ("WANDB_API_KEY", "WANDB_MODE", "CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE"):
        monkeypatch.delenv(each, raising=False)
    with pytest.raises(UserError, match=f"logger {name} has no credentials here"):
        loggers.require_logger(name)
    monkeypatch.setenv(variable, "something")
    assert loggers.require_logger(name).package == name
