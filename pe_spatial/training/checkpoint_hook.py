"""The hook that saves and restores training state; it stands in for mmengine's CheckpointHook."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import mmengine
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn

from pe_spatial.common.errors import (
    CheckpointError,
    ConfigError,
    UserError,
    few,
    require_choice,
    require_positive,
    suggest,
)
from pe_spatial.common.files import remove_leftovers, write_json, write_text
from pe_spatial.common.reading import is_of_kind
from pe_spatial.common.tensors import Misfit, shapes_of
from pe_spatial.training import checkpoint as files
from pe_spatial.training.checkpoint_content import check_resumable
from pe_spatial.training.checkpoint_state import check_state
from pe_spatial.training.data_identity import check_identity, identity
from pe_spatial.training.frozen_encoders import leave_out_encoders
from pe_spatial.training.fsdp import FullyShardedModel, gather_full
from pe_spatial.training.progress import METRICS_FILE, read_metrics


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):
    """Saves the last states and the best weights; see `pe_spatial.training.checkpoint` for what a file holds.

    A new file is complete before an old one is removed, and a state is saved only after an optimizer step, so that
    accumulated gradients are never lost: with gradient accumulation a save may come some iterations late. Only a run
    that is stopped early saves where it is.

    Args:
        interval: Iterations between saves; the end of training always saves.
        keep: How many last states stay.
        best: A key of the validation metrics, e.g. "coco/bbox_mAP"; its best weights stay too. None keeps none.
        rule: Whether the best value is the "greater" or the "less".
    """

    priority = "VERY_LOW"

    def __init__(
        self, interval: int = 1000, keep: int = 2, best: str | None = None, rule: Literal["greater", "less"] = "greater"
    ) -> None:
        require_positive(interval=interval, keep=keep)
        require_choice("rule", rule, ("greater", "less"))
        self.interval = interval
        self.keep = keep
        self.best = best
        self.rule = rule
        self._due = False
        self._saved = 0

    # --- saving -------------------------------------------------------------------------------------------------------
    def before_run(self, runner: Runner) -> None:
        """Refuse loops that count epochs."""
        # a runner that only tests has built no training loop: it holds the loop's config
        if isinstance(runner._train_loop, BaseLoop) and not isinstance(runner._train_loop, IterBasedTrainLoop):
            raise ConfigError("train_cfg.by_epoch must be false: a run is counted, saved and resumed by iterations")

    def before_train(self, runner: Runner) -> None:
        """Clear what a killed run left, and make up for a validation that it could not finish."""
        self._saved = runner.iter
        if is_main_process():
            remove_leftovers(Path(runner.work_dir))
        if _agree(lambda: _validation_is_missing(runner)):
            runner.val_loop.run()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save if it is time and no gradients are pending."""
        done = runner.iter + 1
        self._due |= done % self.interval == 0 or done == runner.max_iters
        if self._due and runner.optim_wrapper.should_update():
            self._due = False
            self._save_last(runner, done)

    def after_train_epoch(self, runner: Runner) -> None:
        """Save the last state of a run that was stopped early (`EarlyStoppingHook`), so that it can go on."""
        if runner.train_loop.stop_training and self._saved != runner.iter:
            runner.logger.info(f"stopped early after iteration {runner.iter}; --resume continues with new patience")
            self._save_last(runner, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Save the weights if the metric is the best so far."""
        if self.best is None or not isinstance(runner._train_loop, IterBasedTrainLoop):
            return
        metrics = metrics or {}
        if self.best not in metrics:
            raise ConfigError(
                f"default_hooks.checkpoint.best: there is no metric {self.best!r}; {suggest(self.best, metrics)}"
            )
        folder, score = Path(runner.work_dir), float(metrics[self.best])
        if math.isnan(score):
            runner.logger.warning(
                f"{self.best} is not defined on this validation data: no checkpoint is the best by it"
            )
            return
        if not _agree(lambda: self._improves(score, self._best_so_far(runner))):
            return
        path = folder / f"best_iter_{runner.iter}.pth"
        state = training_state(runner, runner.iter, with_optimizer=False)
        if is_main_process():
            files.save_checkpoint(state, path)
            record = {"file": path.name, "metric": self.best, "score": score, "iter": runner.iter}
            write_json(folder / files.BEST_POINTER, record, indent=None)
            for old in set(folder.glob("best_iter_*.pth")) - {path}:
                old.unlink(missing_ok=True)
            runner.logger.info(f"best {self.best} so far: {score:.4f}, saved as {path.name}")

    def _best_so_far(self, runner: Runner) -> dict[str, Any] | None:
        """The record of the best checkpoint; where it is damaged, the best score that the run has recorded."""
        folder = Path(runner.work_dir)
        try:
            return files.read_best(folder)
        except UserError as error:
            runner.logger.warning(f"{error}; the scores in {METRICS_FILE} are taken instead")
        key = str(self.best)
        records = [record for record in read_metrics(folder) if record["iter"] < runner.iter]
        scores = [float(record[key]) for record in records if is_of_kind(record.get(key), float)]
        choose = max if self.rule == "greater" else min
        return {"metric": self.best, "score": choose(scores)} if scores else None

    def _improves(self, score: float, previous: dict[str, Any] | None) -> bool:
        if previous is None or previous["metric"] != self.best:
            return not math.isnan(score)
        return score > previous["score"] if self.rule == "greater" else score < previous["score"]

    def _save_last(self, runner: Runner, iteration: int) -> None:
        self._saved = iteration
        state = training_state(runner, iteration, with_optimizer=True)
        if is_main_process():
            folder = Path(runner.work_dir)
            path = folder / f"iter_{iteration}.pth"
            files.save_checkpoint(state, path)
            write_text(folder / files.LAST_POINTER, path.name + "\n")
            earlier = [file for file in folder.glob("iter_*.pth") if files.iteration_of(file) < iteration]
            for old in sorted(earlier, key=files.iteration_of)[: -(self.keep - 1) or None]:
                old.unlink(missing_ok=True)

    # --- loading ------------------------------------------------------------------------------------------------------
    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check that the weights fit, and give mmengine what it expects to find."""
        model = unwrap(runner.model)
        path = files.plain_path(runner._load_from)
        continues = runner._resume or not isinstance(runner._train_loop, IterBasedTrainLoop)
        state_dict = checkpoint.get("state_dict", checkpoint)
        report = compare_keys(model, state_dict)
        if report and continues:
            raise CheckpointError(f"{path}: does not fit this config: {report}")
        if model.state_dict().keys().isdisjoint(_without_wrapper(state_dict)):
            raise CheckpointError(f"{path}: none of its {len(state_dict)} entries belongs to this model: {report}")
        if report:
            runner.logger.warning(f"{path}: {report}")
        if not runner._resume:
            return
        check_resumable(checkpoint, Path(path))
        check_state(checkpoint, runner, Path(path))
        check_identity(checkpoint.get("pe_spatial", {}).get("data"), runner.train_dataloader.dataset, path)
        for key, values in checkpoint.get("pe_spatial", {}).get("log_history", {}).items():
            checkpoint["message_hub"]["log_scalars"][key] = HistoryBuffer(values, [1] * len(values))
        # mmengine compares pickles, in which equal values may differ
        metainfo = getattr(runner.train_dataloader.dataset, "metainfo", None)
        if _plain(metainfo) == checkpoint["meta"].get("dataset_meta"):
            checkpoint["meta"]["dataset_meta"] = metainfo
        if isinstance(runner.model, FullyShardedModel):
            # sharded before the first iteration, when the parameters are
            runner.model.pending_optimizer_state = checkpoint.pop("optimizer")


def _agree(decide: Callable[[], bool]) -> bool:
    """The main process decides for all: files that it writes may or may not be there yet for the others."""
    decision = [decide() if is_main_process() else False]
    broadcast_object_list(decision)
    return decision[0]


def _validation_is_missing(runner: Runner) -> bool:
    """Whether the run was killed after the save but before the end of the validation at the same iteration."""
    loop = runner.train_loop
    is_due = loop.iter % loop.val_interval == 0 or loop.iter == loop.max_iters
    if runner.val_loop is None or loop.iter == 0 or loop.iter < loop.val_begin or not is_due:
        return False
    records = read_metrics(Path(runner.work_dir))
    return not any(record["mode"] == "val" and record["iter"] == loop.iter for record in records)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a distributed wrapper."""
    return model.module if is_model_wrapper(model) else model  # type: ignore[return-value]


def training_state(runner: Runner, iteration: int, with_optimizer: bool) -> dict[str, Any]:
    """The content of a checkpoint after `iteration` iterations. Collective where parameters are sharded."""
    dataset = runner.train_dataloader.dataset
    state: dict[str, Any] = {
        "meta": {
            "epoch": runner.epoch,
            "iter": iteration,
            "seed": runner.seed,
            "experiment_name": runner.experiment_name,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "mmengine_version": mmengine.__version__,
            "dataset_meta": _plain(getattr(dataset, "metainfo", None)),
        },
        "pe_spatial": describe(runner.cfg.to_dict(), getattr(dataset, "metainfo", None)),
        "state_dict": gather_full(unwrap(runner.model).state_dict()),
        "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
    }
    if with_optimizer:
        state["pe_spatial"] |= {"log_history": _recent_scalars(runner), "data": identity(dataset)}
        state["optimizer"] = gather_full(runner.optim_wrapper.state_dict())
        state["param_schedulers"] = [scheduler.state_dict() for scheduler in runner.param_schedulers or []]
    # EMAHook puts its average into `state_dict`, and the weights that training goes on with into `ema_state_dict`
    runner.call_hook("before_save_checkpoint", checkpoint=state)
    if not with_optimizer:
        state.pop("ema_state_dict", None)
    leave_out_encoders(state, unwrap(runner.model))
    return state


def describe(config: dict[str, Any], metainfo: Any) -> dict[str, Any]:
    """The `pe_spatial` key of a checkpoint: what a Predictor needs beside the weights."""
    return {"format_version": files.FORMAT_VERSION, "config": json.dumps(config), "metainfo": _plain(metainfo)}


def compare_keys(model: nn.Module, state_dict: dict[str, Tensor]) -> str:
    """How the weights differ from the model's, in one line; empty if they fit."""
    found, expected = _without_wrapper(state_dict), model.state_dict()
    other = [
        f"{key} is {str(found[key].dtype).removeprefix('torch.')}"
        for key, tensor in expected.items()
        if isinstance(found.get(key), Tensor) and tensor.is_floating_point() and not found[key].is_floating_point()
    ]
    kinds = [f"{len(other)} of {len(expected)} keys of another kind of numbers ({few(other)})"] if other else []
    return "; ".join(filter(None, [str(Misfit(shapes_of(found), shapes_of(expected))), *kinds]))


def _without_wrapper(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).removeprefix("module."): value for key, value in state_dict.items()}


def _recent_scalars(runner: Runner) -> dict[str, list[float]]:
    """What smooths the next line of the log; the full history is in metrics.jsonl."""
    window = runner.log_processor.window_size
    return {
        key: [float(value) for value in buffer.data[0][-window:]]
        for key, buffer in runner.message_hub.log_scalars.items()
        if key.startswith("train/")
    }


def _plain(value: Any) -> Any:
    """The JSON form of a dataset's metainfo; None stands for what has none."""
    return json.loads(json.dumps(value, default=lambda item: item.tolist() if hasattr(item, "tolist") else str(item)))
