"""What a run must not lose survives an experiment's own hooks; averaging and early stops leave runs that continue."""

import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
import toy_task
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from test_resume import assert_same_run, die_in_iteration, die_in_validation, finish

from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.binding import BindDatasetHook
from pe_spatial.training.checkpoint import find_last, load_checkpoint, read_best
from pe_spatial.training.config import load_config, override_config
from pe_spatial.training.launch import evaluate, train
from pe_spatial.training.progress import read_metrics

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if not {"_base_", "detectron2"} & {*path.parts})
GUARDS = {"AtomicCheckpointHook", "IterationSeedHook", "LossGuardHook", "BindDatasetHook", "DataCheckHook"}
# a model with this type needs this hook
OWN_GUARDS = {"DETA": "DetaStartHook", "MaskDecoder": "MaskAnnealingHook", "SpatialAlignment": "StudentExportHook"}
AVERAGE = "custom_hooks=[{type: EMAHook, momentum: 0.1}]"


class Hooked:
    """As much of a Runner as takes hooks."""

    register_hook = Runner.register_hook
    register_default_hooks = Runner.register_default_hooks
    register_custom_hooks = Runner.register_custom_hooks
    register_hooks = Runner.register_hooks

    def __init__(self, config):
        self._hooks = []
        self.register_hooks(dict(config.default_hooks), config.custom_hooks)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_hooks_of_ones_own_leave_the_guards_of_a_recipe_alive(path):
    config = load_config(path)
    assert not config.get("custom_hooks")
    if config.get("train_cfg") is None:
        pytest.skip("trains nothing")
    override_config(config, [AVERAGE], path)
    hooks = Hooked(config)._hooks
    names = {type(hook).__name__ for hook in hooks}
    assert any(isinstance(hook, EMAHook) for hook in hooks)
    assert names >= GUARDS
    assert OWN_GUARDS.get(config.model.type, "BindDatasetHook") in names


def test_other_classes_are_refused_with_hooks_of_ones_own_too(finished, tmp_path, monkeypatch):
    def bind_dataset(self, metainfo):
        raise ValueError(f"{len(metainfo['classes'])} classes")

    monkeypatch.setattr(toy_task.ToyModel, "bind_dataset", bind_dataset, raising=False)
    with pytest.raises(ValueError, match="2 classes"):
        train(toy_task.load(finished[0], tmp_path / "run", AVERAGE))
    assert not (tmp_path / "run").exists()


def test_a_model_without_classes_is_not_bound(finished, tmp_path):
    runner = train(toy_task.load(finished[0], tmp_path / "run", AVERAGE, "train_cfg.max_iters=3"))
    assert not hasattr(runner.model, "check_classes")
    assert any(isinstance(hook, BindDatasetHook) for hook in runner.hooks)
    assert read_metrics(tmp_path / "run")[-1]["mode"] == "val"


# --- averaged weights -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    config = toy_task.write_config(folder, toy_task.write_images(folder / "images"))
    config.write_text(f"{config.read_text()}custom_hooks: [{{type: EMAHook, momentum: 0.1}}]\n")
    assert finish(config, folder / "run") == 0
    return config, folder / "run"


@pytest.mark.parametrize("sabotage", [partial(die_in_iteration, 8), die_in_validation], ids=["iteration", "validation"])
def test_a_killed_run_with_averaged_weights_resumes_exactly(averaged, tmp_path, sabotage):
    config, uninterrupted = averaged
    assert finish(config, tmp_path / "run", sabotage=sabotage) < 0
    assert finish(config, tmp_path / "run", "yes") == 0
    assert_same_run(tmp_path / "run", uninterrupted)
    ours, theirs = (
        load_checkpoint(path / "iter_12.pth")["ema_state_dict"] for path in (tmp_path / "run", uninterrupted)
    )
    assert ours.keys() == theirs.keys()
    assert ours["steps"] == 12
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_everything_after_training_uses_the_average(averaged):
    config, run = averaged
    content = load_checkpoint(run / "iter_12.pth")
    average, trained = content["state_dict"], content["ema_state_dict"]
    assert any(not torch.equal(average[key], trained[f"module.{key}"]) for key in average)
    predictor = Predictor(run / "iter_12.pth", device="cpu")
    assert all(torch.equal(value, average[key]) for key, value in predictor.model.state_dict().items())
    scored = evaluate(toy_task.load(config, run), run / "iter_12.pth")
    assert scored["toy/score"] == read_metrics(run)[-1]["toy/score"]
    best = read_best(run)
    assert "ema_state_dict" not in load_checkpoint(run / best["file"])
    assert evaluate(toy_task.load(config, run))["toy/score"] == best["score"]


# --- early stops ------------------------------------------------------------------------------------------------------
def test_a_run_that_stops_early_leaves_a_checkpoint_that_continues(finished, tmp_path, capfd):
    stop = "custom_hooks=[{type: EarlyStoppingHook, monitor: toy/score, rule: greater, stopping_threshold: 0.0}]"
    rare = ["default_hooks.checkpoint.interval=100", "train_cfg.max_iters=9", "param_scheduler.1.end=9"]
    train(toy_task.load(finished[0], tmp_path / "run", stop, *rare))
    assert find_last(tmp_path / "run").name == "iter_3.pth"
    assert "stopped early after iteration 3" in capfd.readouterr().out
    train(toy_task.load(finished[0], tmp_path / "run", *rare), "yes")
    assert find_last(tmp_path / "run").name == "iter_9.pth"
    train(toy_task.load(finished[0], tmp_path / "whole", *rare))
    ours, theirs = (load_checkpoint(tmp_path / name / "iter_9.pth")["state_dict"] for name in ("run", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# --- the console ------------------------------------------------------------------------------------------------------
@HOOKS.register_module()
class ComplainingHook(Hook):
    """Says things in all the ways that libraries do."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        import warnings

        from mmengine.logging import print_log

        if batch_idx == 0:
            warnings.warn("said by Python", stacklevel=1)
            runner.logger.warning("said by the logger")
            print_log("said by us", "current")


def test_all_warnings_have_one_form_and_libraries_are_silent(finished, tmp_path, capfd):
    overrides = ["custom_hooks=[{type: ComplainingHook}]", "train_cfg.max_iters=1"]
    train(toy_task.load(finished[0], tmp_path / "run", *overrides))
    log = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.log"))
    assert "said by Python" in log
    train(toy_task.load(finished[0], tmp_path / "run", "train_cfg.max_iters=2"), "yes")
    out, err = capfd.readouterr()
    lines = [line[9:] for line in out.splitlines()]  # after the time
    assert {"warning: said by Python", "warning: said by the logger", "said by us"} <= set(lines)
    assert "said" not in err
    for noise in ("Loads checkpoint", "Load checkpoint", "resumed epoch", "Advance dataloader"):
        assert noise not in out + err


def test_headlines_come_first(finished, tmp_path, capfd, monkeypatch):
    numbers = {f"{letter}{number}": number / 10 for letter in "abcd" for number in range(3)}
    monkeypatch.setattr(toy_task.ToyMetric, "compute_metrics", lambda self, results: {**numbers, "score": 0.5})
    monkeypatch.setattr(toy_task.ToyMetric, "headline", ("score", "d1", "absent"), raising=False)
    train(toy_task.load(finished[0], tmp_path / "run", "train_cfg.max_iters=1"))
    line = next(line for line in capfd.readouterr().out.splitlines() if "validation  " in line)
    assert line.partition("validation  ")[2].startswith("toy/score 0.5000  toy/d1 0.1000  toy/a0 0.0000")
    assert line.endswith("and 7 more in the result card")


# --- the process ------------------------------------------------------------------------------------------------------
SIDE_EFFECTS = """
    import warnings, cv2, numpy, torch, mmengine.runner
    from mmengine.runner.checkpoint import CheckpointLoader
    from mmengine.fileio.handlers.registry_utils import file_handlers

    def state():
        return (
            {key: loader for key, loader in CheckpointLoader._schemes.items() if "pe_spatial" not in key},
            dict(file_handlers), list(warnings.filters), warnings.showwarning, torch.get_default_dtype(),
            torch.get_autocast_dtype("cuda"), torch.get_autocast_dtype("cpu"), torch.get_num_threads(),
            cv2.getNumThreads(), numpy.get_printoptions(), torch.backends.cuda.matmul.allow_tf32,
        )

    import torch.distributed.tensor, torchvision, torch.utils.tensorboard, matplotlib.pyplot, PIL.Image, huggingface_hub
    import torch.distributed.fsdp, scipy.optimize
    before = state()
    import pe_spatial.training, pe_spatial.training.launch, pe_spatial.inference.predictor
    changed = [index for index, pair in enumerate(zip(before, state())) if pair[0] != pair[1]]
    assert not changed, changed
"""


def test_importing_the_package_changes_nothing_for_others_in_the_process():
    code = textwrap.dedent(SIDE_EFFECTS)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=toy_task.environment())
    assert result.returncode == 0, result.stderr


def test_a_run_gives_the_process_back_as_it_was(finished, tmp_path):
    import warnings

    import cv2

    def state():
        return (
            torch.get_autocast_dtype("cuda"),
            torch.get_num_threads(),
            cv2.getNumThreads(),
            list(warnings.filters),
            warnings.showwarning,
        )

    before = state()
    overrides = ["optim_wrapper.type=Bf16OptimWrapper", "train_cfg.max_iters=1"]
    train(toy_task.load(finished[0], tmp_path / "run", *overrides))
    assert state() == before
