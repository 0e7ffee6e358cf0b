"""Detectors are trained, scored and checked on folders of other tools as these lie there."""

import json
import re

import pytest
import torch
from children import CONTEXT
from format_scenes import FORMATS
from small_runs import CONFIG, overrides, shared_overrides

from pe_spatial.commands.shell import run_command
from pe_spatial.training.progress import read_metrics

DETA = [
    "model.neck={type: DetaPyramid, out_channels: 32, levels: 3}",
    "model.transformer.num_queries=20",
    "train_dataloader.dataset.pipeline.1.masks=false",
    "train_dataloader.dataset.pipeline.3.fit_boxes=false",
    "model.transformer.layer={heads: 2, points: 2, ffn_channels: 32}",
]
RUNS = {
    "yolo_polygons": (CONFIG, overrides, [], ["coco/bbox_mAP", "coco/segm_mAP"]),
    "voc": ("demo/deta_tiny_shapes.yaml", shared_overrides, DETA, ["coco/bbox_mAP"]),
}


def command(name, *given, steps=2):
    """Call a command on both splits of a dataset where it lies."""
    config, shrunk, more, _ = RUNS[name]
    changes = [*shrunk("", steps, batch_size=1), *more, "model.num_classes=null", "_mask_format=polygon"]
    for split in ("train", "val"):
        data = {"ann_file": FORMATS / name, "split": split, "data_root": "''", "data_prefix.img_path": "''"}
        changes += [f"{split}_dataloader.dataset.{key}={value}" for key, value in data.items()]
    verb, *options = given
    return run_command(verb, ["--config", config, *map(str, options), *changes])


def train(name, folder):
    torch.set_num_threads(1)
    raise SystemExit(command(name, "train", "--output", folder))


@pytest.mark.parametrize("name", RUNS)
def test_a_detector_is_trained_and_scored_on_a_folder_as_it_lies(tmp_path, name):
    process = CONTEXT.Process(target=train, args=(name, tmp_path / "run"))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    for key in RUNS[name][3]:
        assert 0 <= result["metrics"][key] <= 1
    log = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.log"))
    for split, counts in (("train", "1 images, 2 objects"), ("val", "1 images, 1 objects")):
        assert f"{split} of train, val: {counts}, 2 classes (cat, dog)" in log
    losses = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert len(losses) == 2


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("yolo_polygons", ["note: path 'C:\\\\data\\\\pets' is not a folder here; read from"]),
        ("voc", ["note: 2 of 2 annotations have no mask", "note: 1 of 1 annotations have no mask"]),
    ],
)
def test_the_doctor_examines_it(tmp_path, capfd, name, notes):
    assert command(name, "check", "--output", tmp_path / "sheets") == 0
    said = capfd.readouterr().out
    assert "== train: CocoInstances, 1 samples" in said and "== val: CocoInstances, 1 samples" in said
    for note in notes:
        assert said.count(note) >= 1, said
    assert "warning: 1 of 2 classes never occur" in said  # the only picture of val shows a cat
    assert "0 kinds of errors, 1 kind of warnings" in said


def test_the_folder_of_a_recipe_s_pictures_is_not_that_of_the_data(tmp_path, capfd):
    changes = [*overrides(FORMATS, 1), "train_dataloader.dataset.ann_file=voc", "train_dataloader.dataset.split=train"]
    assert run_command("train", ["--config", CONFIG, "--output", str(tmp_path / "run"), *changes]) == 2
    said = capfd.readouterr().err
    assert re.search(r"images are not in their folder.*or leave img_path empty \(''\) for .*voc/JPEGImages", said)
    assert not (tmp_path / "run").exists()
