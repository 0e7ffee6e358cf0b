"""Maps of a frozen encoder on disk: training on them is training, and goes on exactly where it was stopped."""

import shutil
from collections import namedtuple
from pathlib import Path

import measure_cached_features
import numpy as np
import pytest
import torch
from PIL import Image

import pe_spatial
from pe_spatial.commands.shell import run_command, run_module
from pe_spatial.common.errors import ConfigError, FullDiskError, UserError
from pe_spatial.data import Draw
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training import feature_cache
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.feature_cache import CachedViews, FeatureCache
from pe_spatial.training.feature_cache_hook import CachedFeaturesHook
from pe_spatial.training.launch import train

CONFIG = "demo/seg_linear_tiny_random.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six pictures of noise with a class for each half."""
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = np.zeros((32, 32), np.uint8)
            labels[:, int(rng.integers(8, 24)) :] = int(rng.integers(1, 5))
            pixels = rng.integers(0, 60, (32, 32, 3), np.uint8) + 40 * labels[..., None]
            Image.fromarray(pixels).save(folder / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(folder / "labels" / split / f"{number}.png")
    lines = [f"  {name}: [{40 * n}, 0, 0]" for n, name in enumerate(("wall", "floor", "disc", "box", "triangle"))]
    folders = [f"{kind}: {{train: {kind}/train, val: {kind}/val}}" for kind in ("images", "labels")]
    (folder / "classes.yaml").write_text("\n".join(["classes:", *lines, *folders, ""]))
    return folder


def settings_of(data, iterations):
    """A tiny encoder, few steps."""
    variant = "{name: t, patch_size: 16, width: 32, depth: 2, heads: 2, mlp_ratio: 2, image_size: 32, cls_token: false}"
    return [
        "_image_size=32",
        f"model.backbone.variant={variant}",
        f"train_cfg.max_iters={iterations}",
        f"train_cfg.val_interval={iterations}",
        "train_dataloader.batch_size=2",
        "param_scheduler=[{type: ConstantLR, factor: 1.0, by_epoch: false}]",
        "default_hooks.checkpoint.best=null",
        "default_hooks.checkpoint.interval=3",
        "default_hooks.pictures=null",
        "default_hooks.logger.interval=1",
        *(f"{loader}.dataset.data_root={data}" for loader in ("train_dataloader", "val_dataloader")),
    ]


def run(data, folder, *changes, views=1, iterations=6, resume="no"):
    """The run after a training on cached features, or on pictures for no views."""
    config = load_config(CONFIG, [*settings_of(data, iterations), *changes])
    config.work_dir = str(folder)
    if views:
        config.default_hooks["cache_features"] = {"type": "CachedFeaturesHook", "views": views}
    return train(config, resume)


def weights(folder, iteration):
    return load_checkpoint(Path(folder) / f"iter_{iteration}.pth")["state_dict"]


NO_FLIP = "train_dataloader.dataset.pipeline=[{type: LoadImage}, {type: LoadSegmentation}, {type: PackSample}]"


def test_without_augmentation_it_is_the_training_on_pictures(data, tmp_path):
    """The same draws in the same order; only that the maps were rounded to 16 bits."""
    run(data, tmp_path / "pictures", NO_FLIP, views=0)
    runner = run(data, tmp_path / "cached", NO_FLIP)
    plain, cached = weights(tmp_path / "pictures", 6), weights(tmp_path / "cached", 6)
    assert plain.keys() == cached.keys()
    for name in plain:
        torch.testing.assert_close(cached[name].float(), plain[name].float(), atol=2e-3, rtol=2e-3)
    assert runner.model.backbone._forward_hooks == {} and runner.iter == 6
    labels = Predictor(tmp_path / "cached", device="cpu")(data / "images" / "val" / "0.png").pred_sem_seg.data
    assert labels.shape == (1, 32, 32)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six scenes with label maps and depth maps."""
    folder = tmp_path_factory.mktemp("drawn")
    options = ["--output", str(folder), "--images", "6", "--image-size", "64", "--no-photographs", "--force"]
    assert run_command("demo", options) == 0
    return folder


@pytest.mark.parametrize(
    ("task", "model", "name", "labels"),
    [
        ("segmentation", "upernet-tiny", "masks", "LoadSegmentation"),
        ("depth", "dpt-tiny", "depth", "LoadDepthMap"),
        ("depth", "linear-tiny", "depth", "LoadDepthMap"),
    ],
)
def test_other_heads_train_on_cached_maps_as_on_pictures(task, model, name, labels, drawn, tmp_path):
    """DPT takes four maps, the others one; on data of one's own, with an encoder that the command freezes."""
    pytest.importorskip("mmseg")
    pipeline = f"train_dataloader.dataset.pipeline=[{{type: LoadImage}}, {{type: {labels}}}, {{type: PackSample}}]"
    states = []
    for kind, hooks in (("pictures", []), ("cached", [CachedFeaturesHook()])):
        run = pe_spatial.train(
            task, data=drawn, format=name, model=model, tune="frozen", iterations=2, batch_size=2, image_size=64,
            workers=0, output=tmp_path / kind, hooks=hooks,
            overrides=[pipeline, "default_hooks.checkpoint.best=null", f"experiment_name={task}_{model}_{kind}"],
        )  # fmt: skip
        states.append(load_checkpoint(run.folder / "iter_2.pth")["state_dict"])
        assert run.metrics
    plain, cached = states
    assert len(list((tmp_path / "feature_cache").glob("*/map-*.npy"))) == (4 if model == "dpt-tiny" else 1)
    assert plain.keys() == cached.keys()
    for key in plain:
        torch.testing.assert_close(cached[key].float(), plain[key].float(), atol=4e-3, rtol=4e-3)


def test_a_resumed_run_is_the_one_that_was_not_interrupted(data, tmp_path):
    run(data, tmp_path / "whole", views=3)
    run(data, tmp_path / "parts", views=3, iterations=3)
    run(data, tmp_path / "parts", views=3, resume="yes")
    whole, parts = weights(tmp_path / "whole", 6), weights(tmp_path / "parts", 6)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert len(list((tmp_path / "feature_cache").iterdir())) == 1  # both runs share it
    header = feature_cache.json.loads(next((tmp_path / "feature_cache").glob("*/cache.json")).read_text())
    assert header["rows"] == 18 and header["views"] == 3


def test_the_command_takes_the_option_and_a_resumed_run_remembers_it(data, tmp_path):
    where = ["--config", CONFIG, "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert run_command("train", [*where, "--cache-features", "2", *settings_of(data, 3)]) == 0
    assert run_command("train", ["--resume", str(tmp_path / "run"), "--device", "cpu", "train_cfg.max_iters=6"]) == 0
    (folder,) = (tmp_path / "feature_cache").iterdir()
    assert np.load(folder / "done.npy").tolist() == [1] * 12
    assert weights(tmp_path / "run", 6)


def test_what_an_interruption_left_out_is_computed_and_no_more(data, tmp_path):
    run(data, tmp_path / "a")
    (folder,) = (tmp_path / "feature_cache").iterdir()
    before = np.load(folder / "map-0.npy")
    done, maps = np.load(folder / "done.npy"), before.copy()
    assert done.all()
    done[[1, 4]], maps[[1, 4]], maps[2] = 0, 0, 7  # as killed; row 2 counts, so it stays as it is
    np.save(folder / "done.npy", done)
    np.save(folder / "map-0.npy", maps)
    run(data, tmp_path / "b")
    after = np.load(folder / "map-0.npy")
    assert np.abs(after[[1, 4]].astype(float) - before[[1, 4]]).max() < 0.01 and (after[2] == 7).all()
    assert np.load(folder / "done.npy").all()


@pytest.mark.parametrize(
    "change", ["model.backbone.layers=[0]", "randomness.seed=3", NO_FLIP, "model.data_preprocessor.size_divisor=32"]
)
def test_another_encoder_pipeline_or_seed_has_a_cache_of_its_own(data, tmp_path, change):
    for number, changes in enumerate(([], [change])):
        run(data, tmp_path / str(number), *changes, iterations=1)
    assert len(list((tmp_path / "feature_cache").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.backbone.frozen=false", "need a frozen encoder; set model.backbone.frozen=true"),
        ("model.backbone.frozen=1", "need a frozen encoder"),
    ],
)
def test_an_encoder_that_learns_is_refused_before_the_run_has_a_folder(data, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        run(data, tmp_path / "run", change)
    assert not (tmp_path / "run").exists() and not (tmp_path / "feature_cache").exists()


def test_a_disk_that_is_too_small_is_known_first(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 0, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FullDiskError, match=r"it needs 2,0\d\d,\d\d\d bytes and 1,000,000 are free"):
        FeatureCache(tmp_path / "c", 1000, {"map-0": ((10, 10, 10), "float16")})
    assert not list((tmp_path / "c").iterdir())


def test_files_of_another_shape_are_damaged(tmp_path):
    FeatureCache(tmp_path / "c", 4, {"map-0": ((2, 3), "float16")})
    with pytest.raises(UserError, match=r"map-0.npy is damaged .*; delete .* and run again to make a new one"):
        FeatureCache(tmp_path / "c", 4, {"map-0": ((3, 3), "float16")})


def test_every_view_gets_its_turn_and_the_draw_decides(tmp_path):
    cache = FeatureCache(tmp_path / "c", 12, {"map-0": ((1, 1, 1), "float16")})
    views = CachedViews(cache, [None] * 3, 4, (16, 16))
    rows = [views.row_of(Draw(2, number, 0)) for number in range(60)]
    assert set(rows) == {2, 5, 8, 11} and rows == [views.row_of(Draw(2, number, 0)) for number in range(60)]
    assert rows != [views.row_of(Draw(2, number, 1)) for number in range(60)]


def test_the_study_times_and_judges_both_ways(data, tmp_path, monkeypatch, capsys):
    """Without augmentation both are the same training."""
    monkeypatch.setattr(measure_cached_features, "in_own_process", lambda function, *arguments: function(*arguments))
    changes = [*settings_of(data, 13), NO_FLIP]
    arguments = ["--config", CONFIG, "--output", str(tmp_path), "--seeds", "2", *changes]
    assert run_module(measure_cached_features, "measure_cached_features.py", arguments) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if " wall_ms " in line]
    rows = [dict(zip(line[::2], line[1::2], strict=True)) for line in lines]
    assert [row["on"] for row in rows] == ["pictures", "cached"] * 3
    assert all(float(row["wall_ms"]) > 0 and float(row["cpu_ms"]) > 0 for row in rows)
    for pictures, cached in zip(rows[:4:2], rows[1:4:2], strict=True):
        assert float(pictures["first"]) == pytest.approx(float(cached["first"]), abs=2)
    assert float(rows[4]["mean"]) == pytest.approx(np.mean([float(row["first"]) for row in rows[:4:2]]), rel=1e-3)
