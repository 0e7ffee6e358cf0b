"""One training run of the toy task and what it leaves: files, pictures, records, a card; and how it stops on NaN."""

import json
import math
import shutil

import pytest
import torch
from PIL import Image
from toy_task import load

from pe_spatial.common.errors import CheckpointError, DivergedError, UserError
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train
from pe_spatial.training.progress import duration, read_metrics


def test_the_work_folder(finished):
    _, run = finished
    assert {path.name for path in run.glob("*.pth")} >= {"iter_4.pth", "iter_6.pth"}
    assert (run / "last_checkpoint").read_text() == "iter_6.pth\n"
    assert json.loads((run / "best_checkpoint.json").read_text())["metric"] == "toy/score"
    assert "PyTorch" in json.loads((run / "environment.json").read_text())
    assert list(run.rglob("events.out.tfevents*"))


def test_the_resolved_config_loads_again(finished):
    _, run = finished
    config = load_config(run / "config.yaml")
    assert config.model.type == "ToyModel"
    assert config.log_level == "INFO"
    assert "launcher" not in config
    assert "resume" not in config


def test_metrics_are_recorded_line_by_line(finished):
    _, run = finished
    records = read_metrics(run)
    assert [(record["mode"], record["iter"]) for record in records] == [
        ("train", 2),
        ("val", 3),
        ("train", 4),
        ("train", 6),
        ("val", 6),
    ]
    assert records[0].keys() >= {"loss", "loss_box", "lr", "time", "data_time", "grad_norm", "memory"}


def test_pictures_are_drawn_at_every_validation(finished):
    _, run = finished
    drawn = sorted(path.relative_to(run / "pictures") for path in (run / "pictures").rglob("*.jpg"))
    assert [str(path) for path in drawn] == [f"iter_{i}/{name}.jpg" for i in (3, 6) for name in ("00_00", "01_01")]
    with Image.open(run / "pictures" / drawn[0]) as picture:
        assert picture.width / picture.height == pytest.approx(32 / 24, rel=0.02)


def test_the_result_card(finished):
    path, run = finished
    card = json.loads((run / "result.json").read_text())
    assert card["config"] == str(path)
    assert card["metrics"]["toy/score"] == read_metrics(run)[-1]["toy/score"]
    assert card["parameters"] == {"trainable": 588, "frozen": 0}
    assert card["iterations"] == 6
    assert card["seed"] == 0
    assert card["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert f"| toy/score | {card['metrics']['toy/score']:.4f} |" in (run / "RESULT.md").read_text()


def test_a_checkpoint_holds_plain_values_and_the_config(finished):
    _, run = finished
    content = load_checkpoint(run / "iter_6.pth")
    assert content.keys() == {"meta", "pe_spatial", "state_dict", "message_hub", "optimizer", "param_schedulers"}
    assert json.loads(content["pe_spatial"]["config"])["model"]["type"] == "ToyModel"
    assert content["pe_spatial"]["metainfo"]["classes"] == ["dark", "bright"]
    assert "optimizer" not in load_checkpoint(next(run.glob("best_*.pth")))


def test_a_folder_with_a_run_is_not_overwritten(finished):
    path, run = finished
    with pytest.raises(UserError, match=r"iter_6.pth.*--resume"):
        train(load(path, run))


def test_evaluation_gives_the_metric_of_the_run(finished):
    path, run = finished
    last = evaluate(load(path, run), run / "iter_6.pth")
    assert last["toy/score"] == read_metrics(run)[-1]["toy/score"]
    best = json.loads((run / "best_checkpoint.json").read_text())
    assert evaluate(load(path, run))["toy/score"] == best["score"]
    assert read_metrics(run)[-1]["iter"] == 6  # the run's own files are left alone
    assert json.loads((run / "evaluation" / "result.json").read_text())["checkpoint"].endswith(best["file"])


def test_evaluation_needs_neither_training_data_nor_pretrained_weights(finished):
    path, run = finished
    config = load(path, run, "train_dataloader.dataset.data_root=/nowhere", "model.weights=/nowhere.pt")
    assert evaluate(config)["toy/score"] > 0


def test_weights_of_another_model_are_refused(finished, tmp_path):
    path, run = finished
    with pytest.raises(CheckpointError, match=r"does not fit.*other shape"):
        evaluate(load(path, run, "model.width=4"), run / "iter_6.pth")
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"does not fit.*other shape"):
        train(load(path, tmp_path / "run", "model.width=4", "train_cfg.max_iters=9"), "yes")


def test_weights_alone_cannot_be_resumed(finished, tmp_path):
    path, run = finished
    shutil.copy(next(run.glob("best_*.pth")), tmp_path / "iter_3.pth")
    with pytest.raises(CheckpointError, match="only weights"):
        train(load(path, tmp_path), "yes")


def test_training_starts_from_weights_that_fit_in_part(finished, tmp_path):
    path, run = finished
    content = load_checkpoint(run / "iter_6.pth")
    kept = {key: value for key, value in content["state_dict"].items() if key.startswith("backbone")}
    torch.save({"state_dict": kept}, tmp_path / "backbone.pth")
    overrides = [f"load_from={tmp_path / 'backbone.pth'}", "train_cfg.max_iters=1", "optim_wrapper.optimizer.lr=0.0"]
    runner = train(load(path, tmp_path / "run", *overrides))
    trained = runner.model.state_dict()
    assert all(torch.equal(trained[key], value) for key, value in kept.items())


def test_nothing_to_resume_is_an_error_unless_asked_for(finished, tmp_path):
    path, _ = finished
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        train(load(path, tmp_path / "a"), "yes")
    train(load(path, tmp_path / "a", "train_cfg.max_iters=1"), "if-any")
    assert (tmp_path / "a" / "iter_1.pth").exists()


def test_a_run_without_a_seed_resumes_with_the_one_it_drew(finished, tmp_path):
    path, _ = finished
    seedless = ["randomness.seed=null", "default_hooks.logger.interval=1", "log_processor.window_size=1"]
    train(load(path, tmp_path / "whole", *seedless))
    (tmp_path / "whole" / "iter_6.pth").rename(tmp_path / "expected.pth")
    (tmp_path / "whole" / "metrics.jsonl").rename(tmp_path / "expected.jsonl")
    train(load(path, tmp_path / "whole", *seedless), "yes")
    ours, theirs = (
        load_checkpoint(file)["state_dict"] for file in (tmp_path / "whole" / "iter_6.pth", tmp_path / "expected.pth")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_finished_run_resumes_to_nothing(finished, tmp_path):
    path, run = finished
    shutil.copytree(run, tmp_path / "run")
    train(load(path, tmp_path / "run"), "yes")
    assert read_metrics(tmp_path / "run") == read_metrics(run)


def test_nan_stops_the_run_before_it_reaches_a_checkpoint(finished, tmp_path):
    path, _ = finished
    with pytest.raises(DivergedError, match=r"iteration 4: loss nan, loss_box nan, loss_size 0\.") as caught:
        train(load(path, tmp_path / "run", "model.explode_at=4"))
    assert "learning rate" in str(caught.value)
    assert [path.name for path in (tmp_path / "run").glob("iter_*.pth")] == ["iter_2.pth"]
    weights = load_checkpoint(tmp_path / "run" / "iter_2.pth")["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def test_an_unknown_best_metric_is_named(finished, tmp_path):
    path, _ = finished
    with pytest.raises(UserError, match=r"'toy/scroe'; did you mean 'toy/score'"):
        train(load(path, tmp_path / "run", "default_hooks.checkpoint.best=toy/scroe"))


def test_epoch_loops_are_refused(finished, tmp_path):
    path, _ = finished
    with pytest.raises(UserError, match="by_epoch must be false"):
        overrides = ["train_cfg={by_epoch: true, max_epochs: 1}", "param_scheduler=null"]
        train(load(path, tmp_path / "run", *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train_dataloader.dataset.data_root=/nowhere"], "/nowhere"),
        (["model.weights=/nowhere.pt"], "/nowhere.pt"),
        (["default_hooks.checkpoint.interval=0"], "interval 0"),
        (["train_dataloader.sampler={type: DrawSampler, shuffle: false}", "train_cfg={by_epoch: false}"], "max_iters"),
        (["param_scheduler=[{type: LinearLR, by_epoch: false, begin: 6}]"], "starts at iteration 6, but"),
    ],
)
def test_what_parts_refuse_is_a_user_error(finished, tmp_path, overrides, message):
    path, _ = finished
    with pytest.raises(UserError, match=message):
        train(load(path, tmp_path / "run", *overrides))


def test_bf16_trains_and_evaluates_in_bf16(finished, tmp_path):
    path, _ = finished
    overrides = ["optim_wrapper.type=Bf16OptimWrapper", "val_cfg.fp16=true"]
    train(load(path, tmp_path / "run", *overrides))
    exact = evaluate(load(path, tmp_path / "run", "optim_wrapper.type=Bf16OptimWrapper"))["toy/score"]
    rounded = evaluate(load(path, tmp_path / "run", *overrides))["toy/score"]
    assert exact != rounded == pytest.approx(exact, abs=0.01)
    losses = [record["loss"] for record in read_metrics(tmp_path / "run") if record["mode"] == "train"]
    assert all(map(math.isfinite, losses))


def test_durations_read_well():
    assert [duration(seconds) for seconds in (5.9, 65, 3700, 90000)] == [
        "0:00:05",
        "0:01:05",
        "1:01:40",
        "1 day, 1:00:00",
    ]
