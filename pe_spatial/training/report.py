"""What a run says about itself: first screen, `environment.json`, and a result card (`result.json`, `RESULT.md`)."""

import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import collect_env
from torch import nn

from pe_spatial import __version__
from pe_spatial.common.devices import device_name, peak_memory
from pe_spatial.common.errors import few
from pe_spatial.common.files import write_json, write_text
from pe_spatial.training.checkpoint import find_last, plain_path, read_best
from pe_spatial.training.progress import duration, is_training, scalars
from pe_spatial.training.result import numbers, result_page

_PACKAGES = ("torch", "torchvision", "onedl-mmengine", "numpy")


@HOOKS.register_module()
class RunReportHook(Hook):
    """Writes and shows facts about a run at its beginning and its end."""

    priority = "BELOW_NORMAL"  # when the run has its folder

    def __init__(self) -> None:
        self._metrics: dict[str, float] | None = None
        self._started = time.monotonic()
        self._first_iteration = 0

    def before_run(self, runner: Runner) -> None:
        """Write the environment."""
        self._started = time.monotonic()
        if is_main_process():
            environment = {key: str(value) for key, value in collect_env().items()}
            write_json(Path(runner.work_dir) / "environment.json", environment)

    def before_train(self, runner: Runner) -> None:
        """Show what is about to happen."""
        self._first_iteration = runner.iter
        for line in _summary(runner):
            runner.logger.info(line)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Remember the metrics for the card."""
        self._metrics = scalars(metrics or {})

    def after_train(self, runner: Runner) -> None:
        """Write the card and its pictures."""
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        if is_training(runner):
            has_worked = runner.iter > self._first_iteration or self._metrics is not None
            if not has_worked and (folder / "RESULT.md").is_file():
                runner.logger.info(f"the run was finished before; its results are in {folder} (see RESULT.md)")
                return
            facts, loop = _training_facts(runner, self._first_iteration), runner.val_loop
        else:
            loaded = runner._load_from  # None: the config names all weights
            facts, loop = {"checkpoint": loaded and plain_path(loaded)}, runner.test_loop
        card = {
            "config": runner.cfg.filename,
            "command": shlex.join(["python", *sys.argv]),
            **({} if loop is None else numbers(folder, loop, self._metrics)),
            **facts,
            "seed": runner.seed,
            "seconds": round(time.monotonic() - self._started, 1),
            "peak_memory_gb": round(peak_memory(), 2),
            "parameters": count_parameters(runner.model),
            "precision": _precision(runner.cfg),
            "device": device_name(),
            "processes": get_world_size(),
            "versions": {
                "python": platform.python_version(),
                "pe_spatial": __version__,
                **{name: version(name) for name in _PACKAGES},
            },
            "git_revision": git_revision(),
        }
        write_json(folder / "result.json", card)
        write_text(folder / "RESULT.md", result_page(folder, card, runner, loop, self._metrics is not None))
        runner.logger.info(f"done in {duration(card['seconds'])}; results are in {folder} (see RESULT.md)")

    after_test_epoch = after_val_epoch
    after_test = after_train


def _training_facts(runner: Runner, first_iteration: int) -> dict[str, Any]:
    folder = Path(runner.work_dir)
    last = find_last(folder)
    facts = {"best": read_best(folder), "last_checkpoint": last.name if last else None, "iterations": runner.iter}
    return facts | ({"resumed_from_iteration": first_iteration} if first_iteration else {})


def _summary(runner: Runner) -> list[str]:
    loader, config = runner.train_dataloader, runner.cfg
    images, processes = len(loader.dataset), get_world_size()
    accumulation = config.optim_wrapper.get("accumulative_counts", 1)
    per_step = loader.batch_size * processes * accumulation
    parameters = {kind: f"{count:,} {kind}" for kind, count in count_parameters(runner.model).items()}
    lines = [
        f"work folder {runner.work_dir}, seed {runner.seed}, {device_name()}, {processes} process(es) of "
        f"{torch.get_num_threads()} thread(s), {_precision(config)}",
        f"training data: {images} images" + _histogram(loader.dataset),
    ]
    if runner.val_loop is not None:
        lines.append(f"validation data: {len(runner.val_dataloader.dataset)} images")
    lines += [
        f"batch: {loader.batch_size} images x {processes} process(es) x {accumulation} accumulated = {per_step} per "
        f"step; {runner.max_iters} iterations, {-(-runner.max_iters // accumulation)} steps, "
        f"{runner.max_iters * loader.batch_size * processes / images:.1f} epochs",
        f"model: {parameters['trainable']} and {parameters['frozen']} parameters",
    ]
    return lines + ([f"continuing after iteration {runner.iter}"] if runner.iter else [])


def _histogram(dataset: Any) -> str:
    """The most frequent classes, of datasets that offer `class_counts() -> {name: number of instances}`."""
    if not hasattr(dataset, "class_counts"):
        return ""
    counts = sorted(dataset.class_counts().items(), key=lambda item: -item[1])
    missing = [name for name, count in counts if count == 0]
    shown = few((f"{name} {count}" for name, count in counts), 8)
    return f"; instances of {len(counts)} classes: {shown}" + (f"; none of {few(missing, 8)}" if missing else "")


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers of trainable and of frozen parameters."""
    counts = {"trainable": 0, "frozen": 0}
    for parameter in model.parameters():
        counts["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def git_revision() -> str | None:
    """The commit of the code, with "-dirty" if files were changed; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _precision(config: Any) -> str:
    wrapper = config.get("optim_wrapper") or {}
    kinds = {"Bf16OptimWrapper": "bfloat16 autocast", "AmpOptimWrapper": f"{wrapper.get('dtype', 'float16')} autocast"}
    return kinds.get(wrapper.get("type", ""), "float32")
