"""The mask decoder under the Runner: resumed, in bfloat16, replicated and sharded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from processes import launch

from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

CONFIG = "demo/seg_mask_decoder_tiny_shapes.yaml"
ITERATIONS = 4
VARIANT = "{name: t, patch_size: 8, width: 32, depth: 3, heads: 2, mlp_ratio: 2, image_size: 32, cls_token: true}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six images of a bright square on dark ground with their label maps, and the class list."""
    root = tmp_path_factory.mktemp("squares")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels, labels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8), np.zeros((32, 32), np.uint8)
        y, x = rng.integers(0, 16, 2)
        pixels[y : y + 16, x : x + 16] += 150
        labels[y : y + 16, x : x + 16] = 1
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    (root / "classes.yaml").write_text("classes: [ground, square]\nimages: {all: images}\nlabels: {all: labels}\n")
    return root


def overrides(data, batch_size, wrapper="OptimWrapper"):
    changes = [
        "model.num_classes=2",
        "model.outputs=[semantic]",
        "model.things=[]",
        f"model.backbone.variant={VARIANT}",
        "model.num_queries=4",
        "model.num_blocks=2",
        "model.criterion.points=64",
        f"train_dataloader.batch_size={batch_size}",
        "val_evaluator=[{type: MeanIoUMetric}]",
        f"train_cfg.max_iters={ITERATIONS}",
        f"train_cfg.val_interval={ITERATIONS}",
        "param_scheduler=[{type: ConstantLR, factor: 1.0, by_epoch: false}]",
        "default_hooks.checkpoint={type: AtomicCheckpointHook, interval: 2, keep: 4, best: seg/mIoU}",
        "default_hooks.pictures=null",
        "default_hooks.logger.interval=1",
        f"optim_wrapper.type={wrapper}",
    ]
    for loader, split in (("train_dataloader", ""), ("val_dataloader", ", test_mode: true")):
        dataset = f"type: SegmentationFolder, data_root: {data}, ann_file: classes.yaml, split: all"
        steps = "[{type: LoadImage}, {type: LoadSegmentation}, {type: PackSample}]"
        changes.append(f"{loader}.dataset={{{dataset}, pipeline: {steps}{split}}}")
    return changes


def run(work_dir, changes, resume="no"):
    config = load_config(CONFIG, changes)
    config.work_dir = str(work_dir)
    config.experiment_name = f"mask_decoder_{resume}"  # mmengine keeps loggers by name
    train(config, resume)


def weights(folder, iteration=ITERATIONS):
    return load_checkpoint(folder / f"iter_{iteration}.pth")["state_dict"]


def assert_close(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def replicated(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicated") / "run"
    launch(CONFIG, folder, overrides=overrides(data, batch_size=2))
    return folder


def test_a_resumed_run_ends_as_if_it_had_not_been_interrupted(data, tmp_path):
    changes = overrides(data, batch_size=4, wrapper="Bf16OptimWrapper")
    run(tmp_path / "run", changes)
    expected = weights(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["mode"] == "val" and 0 < lines[-1]["seg/mIoU"] <= 100
    (tmp_path / "run" / f"iter_{ITERATIONS}.pth").unlink()
    run(tmp_path / "run", changes, resume="yes")
    assert_close(weights(tmp_path / "run"), expected, 0)


def test_sharded_is_replicated(data, replicated, tmp_path):
    units = "[backbone.encoder.transformer.resblocks.*]"
    sharding = [f"model_wrapper_cfg={{type: FullyShardedModel, units: {units}}}"]
    launch(CONFIG, tmp_path / "run", overrides=[*overrides(data, batch_size=2), *sharding])
    assert_close(weights(tmp_path / "run"), weights(replicated), 1e-5)
