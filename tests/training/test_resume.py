"""A run killed with SIGKILL at any moment and resumed equals the run that was never interrupted, bit for bit."""

import io
import json
import os
import random
import signal
import time
from functools import partial

import pytest
import torch
import toy_task
from children import CONTEXT
from mmengine.registry import HOOKS

from pe_spatial.common import tensors
from pe_spatial.training import checkpoint as files
from pe_spatial.training import checkpoint_hook
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import train

ITERATIONS = 12


def in_child(function, *arguments):
    """Run in a process of its own and return it."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def run(config_path, work_dir, resume="no", sabotage=None):
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # or the run would take more where there are no workers, and round otherwise
    config = load_config(config_path)
    config.work_dir = str(work_dir)
    if sabotage:
        sabotage()
    train(config, resume)


def finish(config_path, work_dir, resume="no", sabotage=None):
    process = in_child(run, config_path, work_dir, resume, sabotage)
    process.join(100)
    return process.exitcode


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_iteration(number):
    """Between the optimizer's step and the hooks that record it."""
    hook = HOOKS.get("LossGuardHook")
    hook.after_train_iter = lambda self, runner, **kwargs: die() if runner.iter + 1 == number else None


def die_in_write():
    """In the middle of the file of the third save."""
    saves = iter(range(100))
    original = tensors._stream

    def stream(checkpoint, file):
        if next(saves) < 2:
            original(checkpoint, file)
            return
        buffer = io.BytesIO()
        original(checkpoint, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        die()

    tensors._stream = stream


def die_before_pointer():
    """The second checkpoint is complete, but `last_checkpoint` still names the first."""
    original = checkpoint_hook.write_text
    calls = iter(range(100))

    def write_text(path, text):
        if path.name == files.LAST_POINTER and next(calls) == 1:
            die()
        original(path, text)

    checkpoint_hook.write_text = write_text


def die_in_validation():
    """The checkpoint of this iteration is complete, its validation is not."""
    original = toy_task.ToyMetric.compute_metrics
    calls = iter(range(100))

    def compute_metrics(self, results):
        if next(calls) == 2:  # iteration 12; those at 4 and 8 come before the save that follows them
            die()
        return original(self, results)

    toy_task.ToyMetric.compute_metrics = compute_metrics


def assert_same_run(folder, reference):
    ours, theirs = (load_checkpoint(path / f"iter_{ITERATIONS}.pth") for path in (folder, reference))
    assert_equal(ours["state_dict"], theirs["state_dict"])
    assert_equal(ours["optimizer"], theirs["optimizer"])
    assert ours["param_schedulers"] == theirs["param_schedulers"]
    assert records(folder) == records(reference)
    assert files.read_best(folder) == files.read_best(reference)
    assert sorted(path.name for path in folder.glob("*.pth")) == sorted(path.name for path in reference.glob("*.pth"))
    assert not list(folder.glob(".*"))


def assert_equal(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
    else:
        assert ours == theirs


def records(folder):
    machine = ("time", "data_time", "memory")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in machine} for line in lines]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return toy_task.write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("reference")
    config = toy_task.write_config(folder, images)
    assert finish(config, folder / "run") == 0
    return config, folder / "run"


@pytest.mark.parametrize(
    "sabotage",
    [partial(die_in_iteration, 8), die_in_write, die_before_pointer, die_in_validation],
    ids=["iteration", "write", "pointer", "validation"],
)
def test_a_killed_run_resumes_exactly(reference, tmp_path, sabotage):
    config, uninterrupted = reference
    assert finish(config, tmp_path / "run", sabotage=sabotage) == -signal.SIGKILL
    assert files.find_last(tmp_path / "run") is not None
    assert finish(config, tmp_path / "run", "yes") == 0
    assert_same_run(tmp_path / "run", uninterrupted)


def test_killed_twice_at_random_moments_with_workers_and_accumulation(images, tmp_path):
    config = toy_task.write_config(tmp_path, images, accumulate=2, num_workers=2, save=3)
    assert finish(config, tmp_path / "whole") == 0
    saves = [path.name for path in sorted((tmp_path / "whole").glob("iter_*.pth"))]
    assert saves == ["iter_10.pth", "iter_12.pth"]  # 9 is due in the middle of an accumulation
    rng = random.Random(time.time_ns())
    for attempt in ("no", "if-any"):
        process = in_child(run, config, tmp_path / "broken", attempt, None)
        while process.is_alive() and files.find_last(tmp_path / "broken") is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.join()
    assert finish(config, tmp_path / "broken", "yes") == 0
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


def test_workers_do_not_change_a_run(reference, images, tmp_path):
    _, uninterrupted = reference
    config = toy_task.write_config(tmp_path, images, num_workers=2)
    assert finish(config, tmp_path / "run") == 0
    assert records(tmp_path / "run") == records(uninterrupted)


def test_truncated_checkpoints_are_passed_over(reference, tmp_path):
    _, uninterrupted = reference
    whole = (uninterrupted / "iter_9.pth").read_bytes()
    (tmp_path / "iter_9.pth").write_bytes(whole)
    (tmp_path / "iter_12.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / files.LAST_POINTER).write_text("iter_12.pth\n")
    assert files.find_last(tmp_path) == tmp_path / "iter_9.pth"


def test_the_model_is_seeded_by_iteration(reference):
    """Dropout is on: equal losses above mean that random numbers were the same; here they do differ by iteration."""
    _, uninterrupted = reference
    losses = [record["loss"] for record in records(uninterrupted) if record["mode"] == "train"]
    assert len(set(losses)) == len(losses) == ITERATIONS // 2
