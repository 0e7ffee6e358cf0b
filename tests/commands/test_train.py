"""The training command as a user calls it: exit codes, messages without tracebacks, torchrun, Ctrl-C."""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import toy_task
from children import CONTEXT
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pe_spatial.commands.shell import run_command

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "train_net.py"
runs = itertools.count()


def main(*arguments):
    """Call the script in this process; torch is not imported again. Its exit code, or the exception of a bug."""
    # mmengine keeps loggers by name and second: no two runs of a process may share both
    sys.argv = [str(SCRIPT), *map(str, arguments), f"experiment_name=tool{next(runs)}"]
    return run_command("train", sys.argv[1:])


@pytest.fixture
def call(capfd):
    """(exit code, standard output, standard error) of the script."""

    def run(*arguments):
        code = main(*arguments)
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return toy_task.write_config(folder, toy_task.write_images(folder / "images"), max_iters=6, val_interval=6, save=2)


def test_training_and_evaluation_in_the_default_folder(config, call, monkeypatch):
    monkeypatch.chdir(config.parent)
    code, out, err = call("--config", config, "model.width=6")
    assert code == 0, err
    run = config.parent / "work_dirs" / "toy"
    assert (run / "iter_6.pth").exists()
    assert str(run) in out.splitlines()[-1]
    for expected in ("training data: 12 images", "= 2 per step", "trainable", "float32", "6/6  loss", "toy/score"):
        assert expected in out
    for line in out.splitlines():
        for part in ("waiting for data", "lr", "GB", "eta"):
            assert part in line or "/6  loss" not in line
    assert len(out.splitlines()) < 30  # no dumps of environment, hooks and config
    assert "Warning" not in err

    code, out, err = call("--config", config, "--eval-only", "model.width=6")
    assert code == 0, err
    assert "best_iter_6.pth" in out
    assert "toy/score" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no_such_config.yaml"], "no config no_such_config.yaml"),
        (["--config", "{config}", "model.widht=3"], "did you mean 'width'"),
        (["--config", "{config}", "--output", "{empty}", "--resume"], "no complete checkpoint"),
        (["--config", "{config}", "--output", "{empty}", "--eval-only"], "has no complete checkpoint"),
        (["--config", "{config}", "--output", "{empty}", "train_dataloader.dataset.data_root=/nowhere"], "/nowhere"),
        (["--config", "{config}", "--output", "{empty}", "param_scheduler.1.begin=6"], "end should be larger"),
        (["--config", "{config}", "--output", "{empty}", "optim_wrapper.optimizer.lr=-1"], "lr: -1 is not from 0"),
    ],
    ids=["no config", "misspelled", "nothing to resume", "nothing to score", "no data", "scheduler", "optimizer"],
)
def test_mistakes_are_one_line_and_exit_with_2(config, call, tmp_path, arguments, message):
    code, out, err = call(*(argument.format(config=config, empty=tmp_path) for argument in arguments))
    assert code == 2
    assert "Traceback" not in out + err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_the_old_name_of_the_output_is_taken(config, call, tmp_path):
    code, _, err = call("--config", config, "--work-dir", tmp_path / "run", "--resume")
    assert code == 2
    assert err.splitlines()[0] == "--work-dir is now --output"
    assert str(tmp_path / "run") in err.splitlines()[1]


def test_wrong_options_are_explained(call, config):
    for arguments in (["--checkpoint", "a.pth"], ["--resume", "--eval-only"], ["--confg", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main("--config", config, *arguments)


def test_a_bug_is_raised(config, tmp_path, monkeypatch):
    def fail(self, results):
        raise ValueError("a bug")

    monkeypatch.setattr(toy_task.ToyMetric, "compute_metrics", fail)
    with pytest.raises(ValueError, match="a bug"):
        main("--config", config, "--output", tmp_path)


def test_a_diverged_run_exits_with_3(config, call, tmp_path):
    code, out, err = call("--config", config, "--output", tmp_path, "model.explode_at=2")
    assert code == 3
    assert "Traceback" not in out + err
    assert "not finite in iteration 2" in err


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(call, tmp_path, workers):
    images = toy_task.write_images(tmp_path / "images", count=2)
    (images / "02.png").write_text("no image")
    config = toy_task.write_config(tmp_path, images, num_workers=workers, max_iters=20, val_interval=20)
    code, _, err = call("--config", config, "--output", tmp_path / "run", "--no-data-check")
    assert code == 2
    assert "02.png" in err
    assert len(err.strip().splitlines()) == 1


def test_an_unreadable_image_is_found_before_training(call, tmp_path):
    images = toy_task.write_images(tmp_path / "images", count=2)
    (images / "02.png").write_text("no image")
    config = toy_task.write_config(tmp_path, images, max_iters=20, val_interval=20)
    code, out, err = call("--config", config, "--output", tmp_path / "run")
    assert code == 2
    assert "train data: files that cannot be read" in err
    assert "02.png" in err
    assert "1/20" not in out + err


def in_child(log, *arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.exit(main(*arguments))


def test_an_interrupted_run_says_how_to_go_on_and_does(config, call, tmp_path):
    endless = ["train_cfg.max_iters=100000", "train_cfg.val_interval=99999"]
    arguments = (tmp_path / "err", "--config", config, "--output", tmp_path / "run", *endless)
    process = CONTEXT.Process(target=in_child, args=arguments)
    process.start()
    while process.is_alive() and not (tmp_path / "run" / "last_checkpoint").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    message = (tmp_path / "err").read_text()
    assert process.exitcode == 130
    assert "Traceback" not in message
    assert "--resume" in message
    done = int((tmp_path / "run" / "last_checkpoint").read_text().split("_")[1].split(".")[0])
    longer = [f"train_cfg.max_iters={done + 4}", f"param_scheduler.1.end={done + 4}"]
    code, out, err = call("--config", config, "--output", tmp_path / "run", "--resume", *longer)
    assert code == 0, err
    assert f"continuing after iteration {done}" in out


def in_rank(*arguments):
    if code := main("--allow-import", "toy_task", *arguments):
        sys.exit(code)


def test_torchrun_with_two_processes_gives_the_losses_of_one(config, call, tmp_path):
    """torchrun's own launcher, with processes that need not import torch."""
    two = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="test", max_restarts=0)
    two.start_method, two.monitor_interval = CONTEXT.get_start_method(), 0.05
    arguments = [
        "--config",
        str(config),
        "model.dropout=0.0",
        "default_hooks.logger.interval=1",
        "log_processor.window_size=1",
    ]
    halved = [*arguments, "--output", str(tmp_path / "two"), "train_dataloader.batch_size=1"]
    elastic_launch(two, in_rank)(*halved)  # a process that fails makes it raise
    assert json.loads((tmp_path / "two" / "result.json").read_text())["processes"] == 2
    code, _, err = call(*arguments, "--output", tmp_path / "one")
    assert code == 0, err
    # the logged loss is the main process's half of the batch; the norm of the gradient is of the whole
    norms = [
        [line["grad_norm"] for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if "loss" in line]
        for name in ("one", "two")
    ]
    assert len(norms[0]) == 6
    assert norms[0] == pytest.approx(norms[1], abs=1e-5)
