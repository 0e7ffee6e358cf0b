"""A start that fails changes no file; a run remembers its config; two processes do not share a folder."""

import itertools
import json
import os
import re
import shutil
import sys
import time

import pytest
import torch
import toy_task
import yaml
from children import CONTEXT
from mmengine.config import Config
from toy_task import snapshot

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.training.checkpoint import find_last, load_checkpoint, read_config
from pe_spatial.training.config import load_config
from pe_spatial.training.config_checks import require_dataset_types
from pe_spatial.training.launch import train
from pe_spatial.training.progress import read_metrics
from pe_spatial.training.run_config import RUN_CONFIG, config_of_run, differences

_names = itertools.count()


def command(name, *arguments):
    """Call a command as a user does. mmengine keeps loggers by name and second: no two runs may share both."""
    return run_command(name, [*map(str, arguments), f"experiment_name=start{next(_names)}"])


def spoil_nothing(run):
    pass


def spoil_checkpoints(run):
    for path in run.glob("*.pth"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leave_weights_only(run):
    for path in run.glob("iter_*.pth"):
        content = load_checkpoint(path)
        torch.save({key: value for key, value in content.items() if key != "optimizer"}, run / "new")
        (run / "new").rename(path)  # the old one is memory-mapped


FAILURES = {
    "a mistyped key": (spoil_nothing, ["model.widht=4"], "did you mean 'width'"),
    "a mistyped value": (spoil_nothing, ["optim_wrapper.optimizer.lr=-1"], "lr: -1 is not from 0"),
    "other weights": (spoil_nothing, ["model.width=4"], "does not fit this config"),
    "no data": (spoil_nothing, ["train_dataloader.dataset.data_root=/nowhere"], "/nowhere"),
    "unreadable data": (spoil_nothing, ["train_dataloader.dataset.data_root=$BAD"], "cannot be read"),
    "no validation data": (spoil_nothing, ["val_dataloader.dataset.data_root=/nowhere"], "/nowhere"),
    "epochs": (spoil_nothing, ["train_cfg={by_epoch: true, max_epochs: 1}", "param_scheduler=null"], "by_epoch"),
    "a cut checkpoint": (spoil_checkpoints, [], "no complete checkpoint"),
    "only weights": (leave_weights_only, [], "contains only weights"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_resume_that_fails_changes_no_file(run, tmp_path, capfd, failure):
    spoil, overrides, message = FAILURES[failure]
    spoil(run)
    bad = toy_task.write_images(tmp_path / "bad")  # as many as the run has seen
    (bad / "00.png").write_text("no image")
    before = snapshot(run)
    overrides = [override.replace("$BAD", str(bad)) for override in overrides]
    assert command("train", "--resume", run, "train_cfg.max_iters=9", "param_scheduler.1.end=9", *overrides) == 2
    assert message in capfd.readouterr().err
    assert snapshot(run) == before


def test_a_first_start_that_fails_leaves_no_folder(finished, tmp_path, capfd):
    path, _ = finished
    arguments = ["--config", path, "--output", tmp_path / "new" / "run"]
    assert command("train", *arguments, "train_dataloader.dataset.data_root=/nowhere") == 2
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.parametrize("verb", ["train", "check"])
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_data_without_a_type_are_named_with_their_key(finished, tmp_path, capfd, verb, loader):
    path, _ = finished
    config = yaml.safe_load(path.read_text())
    del config[loader]["dataset"]["type"]
    (tmp_path / "untyped.yaml").write_text(yaml.safe_dump(config))
    assert command(verb, "--config", tmp_path / "untyped.yaml", "--output", tmp_path / "run") == 2
    said = capfd.readouterr().err.splitlines()
    assert re.search(rf"untyped.yaml: {loader}\.dataset has no type.*{loader}\.dataset\.type=CocoInstances", said[-1])
    assert not (tmp_path / "run").exists()


def test_data_inside_of_data_have_types_too():
    inner = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": [{"type": "A"}, {}]}}
    config = Config(
        {"train_dataloader": {"dataset": inner}, "val_dataloader": {"dataset": {}}, "test_dataloader": None}
    )
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.dataset\.datasets\.1 has no type"):
        require_dataset_types(config, "train_dataloader")
    config.train_dataloader.dataset = {"type": "InstanceLabels", "source": {"ann_file": "a"}}
    with pytest.raises(ConfigError, match=r"train_dataloader\.dataset\.source has no type"):
        require_dataset_types(config, "train_dataloader")
    require_dataset_types(config, "test_dataloader", "absent")


def test_an_evaluation_that_fails_changes_no_file(run, capfd):
    before = snapshot(run)
    assert command("eval", run, "val_dataloader.dataset.data_root=/nowhere") == 2
    assert command("eval", run, "model.width=4") == 2
    assert command("train", "--config", run / RUN_CONFIG, "--output", run) == 2  # holds a run
    assert "continue it with --resume" in capfd.readouterr().err
    assert snapshot(run) == before


def test_resume_and_eval_need_nothing_but_the_run(finished, tmp_path, capfd, monkeypatch):
    """Overrides, data and `--no-data-check` of the start hold for what follows, from another folder too."""
    path, _ = finished
    images = toy_task.write_images(tmp_path / "others", count=5)
    data = [f"{split}_dataloader.dataset.data_root={images}" for split in ("train", "val")]
    changes = [*data, "model.width=6", "randomness.seed=3"]
    assert command("train", "--config", path, "--output", tmp_path / "run", "--no-data-check", *changes) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capfd.readouterr()
    assert command("train", "--resume", tmp_path / "run", "train_cfg.max_iters=8", "param_scheduler.1.end=8") == 0
    out = capfd.readouterr().out
    assert f"work folder {tmp_path / 'run'}, seed 3" in out
    assert "training data: 5 images" in out
    assert "other than in the run so far: train_cfg.max_iters: 6 → 8" in out
    assert out.count("other than in the run so far") == 2
    assert find_last(tmp_path / "run").name == "iter_8.pth"
    assert "data_check" not in load_config(tmp_path / "run" / RUN_CONFIG).default_hooks
    assert command("eval", tmp_path / "run") == 0
    card = json.loads((tmp_path / "run" / "evaluation" / "result.json").read_text())
    best = json.loads((tmp_path / "run" / "best_checkpoint.json").read_text())
    assert card["metrics"]["toy/score"] == best["score"]
    assert command("eval", tmp_path / "run" / "iter_8.pth", "--output", tmp_path / "scores") == 0
    card = json.loads((tmp_path / "scores" / "result.json").read_text())
    assert card["metrics"]["toy/score"] == read_metrics(tmp_path / "run")[-1]["toy/score"]


def test_a_run_that_was_moved_goes_on_where_it_is(run):
    assert command("train", "--resume", run, "train_cfg.max_iters=7", "param_scheduler.1.end=7") == 0
    assert find_last(run).name == "iter_7.pth"


def test_a_config_beside_resume_is_compared_with_the_run(finished, run, capfd):
    path, _ = finished
    longer = ["train_cfg.max_iters=7", "param_scheduler.1.end=7", "randomness.seed=5"]
    assert command("train", "--config", path, "--output", run, *longer, "--resume") == 0
    out = capfd.readouterr().out
    assert "train_cfg.max_iters: 6 → 7" in out
    assert "randomness.seed: 5 is not taken but the run's 0" in out
    assert load_config(run / RUN_CONFIG).randomness.seed == 0


def test_a_run_of_version_0_1_has_its_config_in_its_checkpoints(run):
    (run / RUN_CONFIG).unlink()
    config = config_of_run(run, ["train_cfg.max_iters=7"])
    assert (config.work_dir, config.train_cfg.max_iters) == (str(run), 7)
    last = find_last(run)
    assert differences(read_config(load_checkpoint(last), last), config) == ["train_cfg.max_iters: 6 → 7"]


def test_a_folder_without_a_run_is_named(tmp_path, capfd):
    assert command("train", "--resume", tmp_path) == 2
    assert "give the folder of a training run" in capfd.readouterr().err


def long_run(path, folder):
    torch.set_num_threads(1)
    train(toy_task.load(path, folder, "train_cfg.max_iters=100000", "train_cfg.val_interval=99999"))


def test_a_second_training_in_one_folder_is_refused_until_the_first_dies(finished, tmp_path):
    path, _ = finished
    process = CONTEXT.Process(target=long_run, args=(path, tmp_path / "run"))
    process.start()
    while process.is_alive() and find_last(tmp_path / "run") is None:
        time.sleep(0.05)
    with pytest.raises(UserError, match=f"process {process.pid}"):
        train(toy_task.load(path, tmp_path / "run"), "yes")
    process.kill()
    process.join()
    done = int(find_last(tmp_path / "run").stem.split("_")[1])
    longer = [f"train_cfg.max_iters={done + 2}", f"param_scheduler.1.end={done + 2}"]
    train(toy_task.load(path, tmp_path / "run", *longer), "yes")
    assert find_last(tmp_path / "run").name == f"iter_{done + 2}.pth"


def stray(folder):
    """A training that SIGTERM ends, as a batch system does; the exit status is the command's."""
    sys.stderr = open(folder / "err", "w", buffering=1)  # noqa: SIM115 - for the life of the process
    sys.exit(
        command("train", "--config", folder / "toy.yaml", "--output", folder / "run", "train_cfg.max_iters=100000")
    )


def test_sigterm_is_an_interruption(finished, tmp_path):
    shutil.copy(finished[0], tmp_path / "toy.yaml")
    process = CONTEXT.Process(target=stray, args=(tmp_path,))
    process.start()
    while process.is_alive() and find_last(tmp_path / "run") is None:
        time.sleep(0.05)
    os.kill(process.pid, 15)
    process.join(60)
    assert process.exitcode == 130
    assert "--resume RUN" in (tmp_path / "err").read_text()
