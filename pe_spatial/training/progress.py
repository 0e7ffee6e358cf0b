"""The line of progress on the screen, `metrics.jsonl` in the work folder, and the same numbers for TensorBoard.

A line of `metrics.jsonl` is an object with `mode` ("train" or "val"), `iter` and numbers, null where undefined. Those
of a validation may have `per_class`: {measure: {class: number or null}}.
"""

import json
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.common.console import progress
from pe_spatial.common.devices import peak_memory
from pe_spatial.common.errors import few, require_positive
from pe_spatial.common.files import write_text
from pe_spatial.training.explanation import UNDEFINED, class_record, full_name, plain

METRICS_FILE = "metrics.jsonl"


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows and records losses and metrics; it stands in for mmengine's LoggerHook.

    Args:
        interval: Iterations between two lines; losses and times are means over `log_processor.window_size` iterations.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 20) -> None:
        require_positive(interval=interval)
        self.interval = interval
        self._metrics: dict[str, float] = {}
        self._classes: dict[str, dict[str, float | None]] = {}
        self._bar = ExitStack()
        self._advance: Callable[[int, str | None], None]

    def before_train(self, runner: Runner) -> None:
        """Take back what a killed run recorded after the checkpoint that this one starts from."""
        kept = [record for record in read_metrics(Path(runner.work_dir)) if record["iter"] <= runner.iter]
        if is_main_process():
            text = "".join(json.dumps(record) + "\n" for record in kept)
            write_text(Path(runner.work_dir) / METRICS_FILE, text)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One line every `interval` iterations and one at the end."""
        done = runner.iter + 1
        if done % self.interval and done != runner.max_iters:
            return
        values, _ = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        values["memory"] = peak_memory()
        runner.logger.info(_train_line(values, done, runner.max_iters, runner.message_hub.get_info("eta")))
        runner.visualizer.add_scalars({f"train/{name}": value for name, value in values.items()}, step=done)
        _append(Path(runner.work_dir), {"mode": "train", **_plain(scalars(values)), "iter": done})

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        """Begin the bar of an evaluation."""
        self._bar.close()
        if mode != "train":
            total = len(getattr(runner, f"{mode}_dataloader"))
            bar = self._bar.enter_context(progress("evaluating", total, "batches", is_main_process()))
            self._advance = bar.advance

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        """Advance the bar of an evaluation, which stays until the metrics are computed."""
        is_last = batch_idx + 1 == len(getattr(runner, f"{mode}_dataloader"))
        self._advance(1, "computing the metrics" if is_last else None)

    def end(self) -> None:
        """Take away a bar that an error left."""
        self._bar.close()

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Show the metrics."""
        self._bar.close()
        self._metrics = scalars(metrics or {})
        self._classes = class_record(runner.val_loop.evaluator)
        runner.logger.info(f"validation  {_metrics_line(self._metrics, runner.val_loop.evaluator)}")

    def after_val(self, runner: Runner) -> None:
        """Record the metrics: when the checkpoint hook has seen them, so that a record means that it is done."""
        iteration = runner.iter if is_training(runner) else 0
        defined = {f"val/{name}": value for name, value in self._metrics.items() if math.isfinite(value)}
        runner.visualizer.add_scalars(defined, step=iteration)
        record = {"mode": "val", **_plain(self._metrics), "iter": iteration}
        _append(Path(runner.work_dir), record | ({"per_class": self._classes} if self._classes else {}))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Show the metrics."""
        self._bar.close()
        runner.logger.info(f"test  {_metrics_line(scalars(metrics or {}), runner.test_loop.evaluator)}")

    def after_run(self, runner: Runner) -> None:
        """Flush TensorBoard."""
        runner.visualizer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a warning counts the lines that are none, which a damaged disk leaves.

    The last line is left out without a word: a killed run may not have finished it.
    """
    path = folder / METRICS_FILE
    lines = path.read_bytes().splitlines() if path.is_file() else []
    found = [_record(line) for line in lines]
    broken = [number for number, record in enumerate(found[:-1], start=1) if record is None]
    if broken:
        warnings.warn(f"{path} is damaged: {len(broken)} lines are left out (line {few(broken)})", stacklevel=2)
    return [record for record in found if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(record, dict) and isinstance(record.get("mode"), str) and type(record.get("iter")) is int
    return record if is_one else None


def is_training(runner: Runner) -> bool:
    """Whether the runner's training loop is built; asking for `runner.iter` would build it."""
    return hasattr(runner._train_loop, "iter")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 0:12:30, after the days if there are any."""
    return str(timedelta(seconds=int(seconds)))


def _train_line(values: dict[str, Any], done: int, total: int, eta: float) -> str:
    terms = "  ".join(
        f"{name.removeprefix('loss_')} {value:.4f}"
        for name, value in values.items()
        if name != "loss" and ("loss" in name or name == "grad_norm")
    )
    waiting = values["data_time"] / max(values["time"], 1e-9)
    rate = values.get("base_lr", values["lr"])
    terms = f"({terms})  " if terms else ""
    return (
        f"{done:>{len(str(total))}}/{total}  loss {values['loss']:.4f}  {terms}lr {rate:.2e}  "
        f"{values['time']:.2f} s/iter  waiting for data {waiting:.0%}  {values['memory']:.2f} GB  eta {duration(eta)}"
    )


def _metrics_line(metrics: dict[str, float], evaluator: Evaluator) -> str:
    """What the metrics call their `headline`, and others up to six."""
    main = [full_name(metric, name) for metric in evaluator.metrics for name in getattr(metric, "headline", ())]
    ordered = [name for name in dict.fromkeys([*main, *metrics]) if name in metrics]
    count = max(6, sum(name in metrics for name in main))
    shown = [f"{name} {_shown(metrics[name])}" for name in ordered[:count]]
    more = f"  and {len(metrics) - count} more in the result card" if len(metrics) > count else ""
    return "  ".join(shown) + more


def _shown(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else UNDEFINED


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: plain(value) for name, value in values.items()}


def scalars(values: dict[str, Any]) -> dict[str, float]:
    """Those entries that are numbers."""
    return {
        name: float(value)
        for name, value in values.items()
        if getattr(value, "ndim", 0) == 0 and hasattr(value, "__float__")
    }


@master_only
def _append(folder: Path, record: dict[str, Any]) -> None:
    with open(folder / METRICS_FILE, "a") as file:
        file.write(json.dumps(record) + "\n")
