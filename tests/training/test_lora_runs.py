"""Runs with adapters (LoRA): what their checkpoints hold and need, exact resuming, several processes, merging."""

import json
import shutil

import pytest
import torch
import toy_task
from processes import launch
from test_resume import assert_equal

from pe_spatial import Predictor
from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.lora import is_adapter
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError, ConfigError
from pe_spatial.common.tensors import read_tensor_file, write_tensor_file
from pe_spatial.inference.encoders import read_backbone
from pe_spatial.training.checkpoint import load_checkpoint, save_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train

TINY = {"name": "t", "patch_size": 8, "width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2, "image_size": 16}
TINY |= {"cls_token": True}
ITERATIONS = 6
SHORT = ("train_cfg.max_iters=3", "param_scheduler=null")


def encoder(seed):
    torch.manual_seed(seed)
    return PEBackbone(TINY).encoder.state_dict()


def backbone(folder, source="encoder.pt", lora="{rank: 2, dropout: 0.1}"):
    weights = f", weights: {folder / source}" if source else ""
    options = f"type: PEBackbone, variant: {json.dumps(TINY)}, checkpointing: true, lora: {lora}"
    return f"model.backbone={{{options}{weights}}}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, two encoders and a config of a short run."""
    folder = tmp_path_factory.mktemp("lora")
    images = toy_task.write_images(folder / "images")
    toy_task.write_config(folder, images, max_iters=ITERATIONS, val_interval=3, batch_size=4, save=3)
    for number, name in enumerate(("encoder.pt", "other.pt")):
        write_tensor_file(encoder(number), folder / name)
    return folder


def start(place, work_dir, *overrides, resume="no"):
    config = toy_task.load(place / "toy.yaml", work_dir, *overrides)
    train(config, resume)
    return work_dir


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """A run with averaged weights, whose adapters add something at the end."""
    averaging = "custom_hooks=[{type: EMAHook, momentum: 0.1}]"
    return start(place, tmp_path_factory.mktemp("runs") / "run", backbone(place), averaging)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def picture(place):
    return place / "images" / "03.png"


def boxes(predictor, picture):
    found = predictor(picture).pred_instances
    return torch.cat([found.bboxes, found.scores[:, None]], dim=1)


# --- checkpoints ------------------------------------------------------------------------------------------------------
def test_checkpoints_hold_adapters_and_heads_alone(place, finished):
    for name in (f"iter_{ITERATIONS}.pth", "best_iter_3.pth"):
        content = load_checkpoint(finished / name)
        for state, before in (("state_dict", ""), ("ema_state_dict", "module.")):
            names = [key.removeprefix(before) for key in content.get(state, ())]
            assert all(is_adapter(key) for key in names if key.startswith("backbone."))
        assert sum(map(is_adapter, content["state_dict"])) == 2 * 4 * TINY["depth"]
        record = content["pe_spatial"]["encoders"]["backbone."]
        assert record["source"] == str(place / "encoder.pt") and len(record["hash"]) == 64
    state = content["state_dict"]
    assert any(state[key].any() for key in state if key.endswith(".up"))


@pytest.mark.parametrize("case", ["drawn", "loaded over"])
def test_an_encoder_that_is_in_no_file_is_stored(place, tmp_path, case):
    """Drawn at random, or replaced by that of another checkpoint."""
    changes = [backbone(place, None)] if case == "drawn" else [backbone(place)]
    if case == "loaded over":
        torch.save({f"backbone.encoder.{key}": tensor for key, tensor in encoder(1).items()}, tmp_path / "all.pth")
        changes.append(f"load_from={tmp_path / 'all.pth'}")
    start(place, tmp_path / "run", *changes, *SHORT)
    content = load_checkpoint(tmp_path / "run" / "iter_3.pth")
    assert "encoders" not in content["pe_spatial"]
    stored = {key.removeprefix("backbone.encoder."): tensor for key, tensor in content["state_dict"].items()}
    assert encoder(0).keys() <= stored.keys()
    if case == "loaded over":
        assert all(torch.equal(stored[key], tensor) for key, tensor in encoder(1).items())
    Predictor(tmp_path / "run", device="cpu")


def test_relative_sources_are_found_from_any_folder(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    changes = backbone(place).replace(f"{place}/", "")
    start(place, tmp_path / "run", changes, *SHORT)
    monkeypatch.chdir(tmp_path)
    Predictor("run", device="cpu")
    assert start(
        place, tmp_path / "run", backbone(place), "param_scheduler=null", "train_cfg.max_iters=4", resume="yes"
    )


# --- what needs them --------------------------------------------------------------------------------------------------
def test_an_interrupted_run_ends_as_if_it_had_not_been(place, run, finished):
    for name in (f"iter_{ITERATIONS}.pth", "last_checkpoint"):
        (run / name).unlink()
    start(place, run, backbone(place), "custom_hooks=[{type: EMAHook, momentum: 0.1}]", resume="yes")
    ours, theirs = (load_checkpoint(folder / f"iter_{ITERATIONS}.pth") for folder in (run, finished))
    for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_equal(ours[key], theirs[key])


def test_prediction_evaluation_and_pictures_of_features_work_without_a_word_about_the_encoder(place, run, picture):
    predictor = Predictor(run / f"iter_{ITERATIONS}.pth", device="cpu")
    frozen = predictor.model.backbone.frozen_state()
    assert all(torch.equal(frozen[key], tensor) for key, tensor in encoder(0).items())
    drawn, _ = read_backbone(run / f"iter_{ITERATIONS}.pth")
    assert_equal(dict(drawn.state_dict()), dict(predictor.model.backbone.state_dict()))
    metrics = evaluate(toy_task.load(run / "config.yaml", run), run / f"iter_{ITERATIONS}.pth")
    scores = [float(predictor(path).pred_instances.scores.sum()) for path in sorted(picture.parent.glob("*.png"))]
    assert metrics["toy/score"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)


def test_another_encoder_is_refused(place, run, tmp_path):
    other = f"model.backbone.weights={place / 'other.pt'}"
    message = r"was trained on the encoder of \S+encoder.pt \(hash \w+\), but \S+other.pt is another encoder"
    with pytest.raises(CheckpointError, match=message):
        Predictor(run, device="cpu", overrides=[other])
    with pytest.raises(CheckpointError, match=message):
        evaluate(toy_task.load(run / "config.yaml", run, other), run / "iter_3.pth")
    (run / "iter_6.pth").unlink()
    with pytest.raises(CheckpointError, match=message):
        start(place, run, backbone(place, "other.pt"), resume="yes")
    with pytest.raises(CheckpointError, match=r"was saved without its encoder, which came from \S+encoder.pt"):
        Predictor(run, device="cpu", overrides=["model.backbone.weights=null"])
    with pytest.raises(CheckpointError, match=r"nowhere.pt.*model.backbone.weights=FILE"):
        Predictor(run, device="cpu", overrides=["model.backbone.weights=nowhere.pt"])
    moved = tmp_path / "moved.safetensors"  # the same encoder in another kind of file
    write_tensor_file(encoder(0), moved)
    Predictor(run, device="cpu", overrides=[f"model.backbone.weights={moved}"])


def test_adapters_are_not_dropped_in_silence(place, run, tmp_path):
    plain = backbone(place).replace("lora: {rank: 2, dropout: 0.1}", "frozen: true")
    with pytest.raises(CheckpointError, match="contains LoRA adapters.* has none; .* --merge"):
        start(place, tmp_path / "next", plain, f"load_from={run / 'iter_6.pth'}")
    assert not (tmp_path / "next").exists()


def test_a_damaged_record_of_encoders_is_named(run, tmp_path):
    content = load_checkpoint(run / "iter_6.pth")
    content["pe_spatial"]["encoders"] = {"backbone.": {"source": 3}}
    save_checkpoint(content, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=r"pe_spatial\.encoders is damaged"):
        Predictor(tmp_path / "damaged.pth", device="cpu")


def test_options_of_the_config_are_checked_before_the_run(place, tmp_path):
    for change, message in (
        (backbone(place, lora="{ranks: 2}"), "model.backbone.lora.ranks: .* did you mean 'rank'"),
        (backbone(place, lora="{rank: some}"), "model.backbone.lora.rank: 'some' is not an integer"),
        (
            "model.backbone={type: SimpleFeaturePyramid, lora: {}}",
            "SimpleFeaturePyramid is not an encoder of pe_spatial",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(place / "toy.yaml", [change])


# --- merging ----------------------------------------------------------------------------------------------------------
def test_a_merged_checkpoint_predicts_the_same_and_is_a_plain_one(run, picture, tmp_path, capsys):
    target = tmp_path / "merged.pth"
    arguments = ["--input", str(run / "iter_6.pth"), "--output", str(target), "--to", "pe_spatial", "--merge"]
    assert run_command("convert", arguments) == 0
    merged, adapted = Predictor(target, device="cpu"), Predictor(run / "iter_6.pth", device="cpu")
    torch.testing.assert_close(boxes(merged, picture), boxes(adapted, picture), atol=1e-5, rtol=0)
    assert merged.config.model.backbone.get("lora") is None and merged.config.model.backbone.weights is None
    assert merged.metainfo == adapted.metainfo
    plain = PEBackbone(TINY, weights=str(target))  # strictly
    assert (
        plain.state_dict().keys() == merged.model.backbone.state_dict().keys() == PEBackbone(TINY).state_dict().keys()
    )
    assert any(not torch.equal(tensor, encoder(0)[key]) for key, tensor in plain.encoder.state_dict().items())

    def to_official(source, file):
        return ["--input", str(source), "--output", str(file), "--to", "official", "--variant", json.dumps(TINY)]

    assert run_command("convert", to_official(target, tmp_path / "e.pt")) == 0
    assert_equal(dict(read_tensor_file(tmp_path / "e.pt")), dict(plain.encoder.state_dict()))
    capsys.readouterr()
    for changes, message in (
        (to_official(run / "iter_6.pth", tmp_path / "f.pt"), "--merge"),
        (["--input", str(target), "--output", str(tmp_path / "f.pth"), *arguments[4:]], "has no LoRA adapters"),
        ([*arguments[:3], str(tmp_path / "f.safetensors"), *arguments[4:]], "--merge needs"),
    ):
        assert run_command("convert", changes) == 2
        assert message in capsys.readouterr().err


# --- several processes ------------------------------------------------------------------------------------------------
def test_two_processes_replicated_and_sharded_equal_one(place, tmp_path):
    steady = [backbone(place, lora="{rank: 2}"), "default_hooks.checkpoint.best=null"]
    half = [*steady, "train_dataloader.batch_size=2"]
    sharding = "model_wrapper_cfg={type: FullyShardedModel, units: [backbone.encoder.transformer.resblocks.*]}"
    start(place, tmp_path / "one", *steady)
    launch(place / "toy.yaml", tmp_path / "replicated", 2, half)
    launch(place / "toy.yaml", tmp_path / "sharded", 2, [*half, sharding])
    shutil.copytree(tmp_path / "sharded", tmp_path / "resumed")
    (tmp_path / "resumed" / f"iter_{ITERATIONS}.pth").unlink()
    launch(place / "toy.yaml", tmp_path / "resumed", 2, [*half, sharding], resume="yes")
    expected = load_checkpoint(tmp_path / "one" / f"iter_{ITERATIONS}.pth")
    for name in ("replicated", "sharded", "resumed"):
        content = load_checkpoint(tmp_path / name / f"iter_{ITERATIONS}.pth")
        assert content["pe_spatial"]["encoders"] == expected["pe_spatial"]["encoders"]
        assert content["state_dict"].keys() == expected["state_dict"].keys()
        for key, tensor in expected["state_dict"].items():
            torch.testing.assert_close(content["state_dict"][key], tensor, atol=2e-6, rtol=0)
