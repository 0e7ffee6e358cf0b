"""A small DETA through the commands that every detector has: train, resume, score, predict, start anew."""

import json
from pathlib import Path

import pytest
import torch
from children import CONTEXT
from small_runs import shared_overrides, write_strips

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import ConfigError
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train

ROOT = Path(__file__).parents[2]
CONFIG = "demo/deta_tiny_shapes.yaml"
REAL = ROOT.parent / "shared" / "data" / "coco_tiny"


def overrides(data, iterations, *more):
    """The demo's model shrunk further."""
    return [
        *shared_overrides(data, iterations, batch_size=2),
        "model.neck={type: DetaPyramid, out_channels: 32, levels: 3}",
        "model.transformer.num_queries=20",
        "model.transformer.layer={heads: 2, points: 2, ffn_channels: 32}",
        "default_hooks.checkpoint.interval=2",
        *more,
    ]


def run_all(*runs):
    torch.set_num_threads(1)
    for config, changes, work_dir, *resume in runs:
        loaded = load_config(config, changes)
        loaded.work_dir = str(work_dir)
        train(loaded, *resume)


def in_child(*runs):
    """Train, one run after the other, in a process of its own."""
    process = CONTEXT.Process(target=run_all, args=runs)
    process.start()
    process.join(200)
    return process.exitcode


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Four iterations at once, and in two goes."""
    folder = tmp_path_factory.mktemp("deta")
    write_strips(folder / "data")
    whole, part = (CONFIG, overrides(folder / "data", 4)), (CONFIG, overrides(folder / "data", 2))
    assert in_child((*whole, folder / "whole"), (*part, folder / "parts"), (*whole, folder / "parts", "yes")) == 0
    return folder


def test_a_resumed_run_equals_the_whole_one(work):
    whole, parts = (load_checkpoint(work / name / "iter_4.pth")["state_dict"] for name in ("whole", "parts"))
    assert all(torch.equal(parts[key], value) for key, value in whole.items())


def test_a_run_is_scored(work):
    config = load_config(CONFIG, overrides(work / "data", 4))
    config.work_dir = str(work / "whole")
    metrics = evaluate(config)
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
    assert not any("segm" in key for key in metrics)


def test_a_run_predicts_boxes_without_masks(work):
    options = ["--checkpoint", work / "whole", "--input", work / "data" / "images", "--output", work / "found"]
    options += ["--threshold", 0, "--device", "cpu", "--limit", 2]
    assert run_command("predict", [str(option) for option in options]) == 0
    found = json.loads((work / "found" / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["1.png", "2.png"]
    assert len(found["annotations"]) > 0
    for row in found["annotations"]:
        _, _, width, height = row["bbox"]
        assert "segmentation" not in row
        assert row["area"] == pytest.approx(width * height, rel=0.05, abs=0.5)
    assert (work / "found" / "pictures" / "1.png").is_file()


def test_another_number_of_classes_needs_new_heads(work):
    content = json.loads((work / "data" / "instances.json").read_text())
    content["categories"].append({"id": 9, "name": "d"})
    (work / "data" / "more.json").write_text(json.dumps(content))
    changes = [change.replace("instances.json", "more.json") for change in overrides(work / "data", 1)]
    changes += [f"load_from={work / 'whole' / 'iter_4.pth'}", "model.num_classes=4"]
    config = load_config(CONFIG, changes)
    config.work_dir = str(work / "refused")
    with pytest.raises(Exception, match=r"has 3 classes, the model 4; .*reinitialize=\[class_embed\]"):
        train(config)
    new_heads = "default_hooks.start.reinitialize=[class_embed]"
    assert in_child((CONFIG, [*changes, new_heads], work / "anew")) == 0
    state = load_checkpoint(work / "anew" / "iter_1.pth")["state_dict"]
    assert len(state["transformer.class_embed.0.weight"]) == 4


def test_more_objects_than_queries_is_said_before_anything_is_computed(work):
    changes = overrides(work / "data", 1, "model.transformer.num_queries=1", "model.matching=one_to_one")
    config = load_config(CONFIG, changes)
    config.work_dir = str(work / "few")
    with pytest.raises(ConfigError, match=r"has 2 objects.* 1 queries; set model.transformer.num_queries higher"):
        train(config)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL}")
def test_real_photographs_train_and_are_scored(tmp_path):
    changes = [f"{split}_dataloader.dataset.data_root={REAL}" for split in ("train", "val")]
    changes += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=2"]
    changes += ["param_scheduler=[{type: ConstantLR, factor: 1.0, by_epoch: false}]"]
    changes += ["val_dataloader.dataset.indices=3", "default_hooks.pictures=null"]
    assert in_child(("detection/deta_mini_coco_300it.yaml", changes, tmp_path / "run")) == 0
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert "coco/bbox_mAP" in metrics
