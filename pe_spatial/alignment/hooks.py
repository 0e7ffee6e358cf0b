"""Hooks around the training of a student: evaluation on another task, and export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn

from pe_spatial.alignment.model import SpatialAlignment
from pe_spatial.backbones import PEBackbone
from pe_spatial.common.errors import ConfigError, OptionError, require_positive
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.training.checkpoint_hook import unwrap
from pe_spatial.training.fsdp import gather_full


@HOOKS.register_module()
class StudentTrialHook(Hook):
    """Evaluates the student on another task at every validation, without training: tracking, for example.

    The task's model is built around a copy of the student, given the task's data sample by sample, and judged by the
    task's metric; the numbers join those of the validation, so that `checkpoint.best` may name one. The main process
    does it alone while the others wait.

    Args:
        model: Config of a model that takes a `backbone` and predicts without training (tracking's `VideoTracker`).
        dataset: Config of its data.
        metric: Config of its metric.
        interval: How many validations apart; the last one is always tried.
    """

    priority = "HIGH"  # before the hooks that show, record and compare the metrics

    def __init__(
        self, model: Mapping[str, Any], dataset: Mapping[str, Any], metric: Mapping[str, Any], interval: int = 1
    ) -> None:
        require_positive(interval=interval)
        self.model = dict(model)
        self.dataset = dict(dataset)
        self.metric = dict(metric)
        self.interval = interval

    def before_train(self, runner: Runner) -> None:
        """Look for the data of the task, so that what is missing is told before hours of training.

        Raises:
            ConfigError: There are too few.
        """
        number = len(DATASETS.build(dict(self.dataset)))
        fewest = getattr(METRICS.get(self.metric["type"]), "fewest", 1)
        if number < fewest:
            raise ConfigError(
                f"the trial has {number} image{'s'[number == 1 :]}, and {self.metric['type']} needs at least {fewest}; "
                "give it more data"
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Add the task's numbers to the metrics, if it is time."""
        done, every = runner.iter, runner.train_loop.val_interval * self.interval
        if metrics is not None and (done % every == 0 or done == runner.max_iters):
            metrics.update(self._results(runner))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Add the task's numbers to the metrics."""
        if metrics is not None:
            metrics.update(self._results(runner))

    def _results(self, runner: Runner) -> dict[str, float]:
        student = copy_student(_model(runner))
        found = [{} if student is None else try_student(student, self.model, self.dataset, self.metric)]
        broadcast_object_list(found)
        return found[0]


@torch.no_grad()
def try_student(
    student: PEBackbone, model: Mapping[str, Any], dataset: Mapping[str, Any], metric: Mapping[str, Any]
) -> dict[str, float]:
    """Judge a student on another task; see `StudentTrialHook`. The task's model may freeze and cast the student.

    Returns:
        The task's numbers, named as in a validation.
    """
    device = next(student.parameters()).device
    whole = MODELS.build({**model, "backbone": student}).to(device).eval()
    data = DATASETS.build(dict(dataset))
    judge = METRICS.build(dict(metric))
    judge.dataset_meta = data.metainfo
    for index in range(len(data)):
        batch = data[index]
        samples = whole.test_step({key: [value] for key, value in batch.items()})
        judge.process(batch, [sample.to_dict() for sample in samples])
    # computed here and not by `evaluate`, which would wait for the other processes
    values = judge.compute_metrics(judge.results)
    return {f"{judge.prefix}/{name}" if judge.prefix else name: value for name, value in values.items()}


@HOOKS.register_module()
class StudentExportHook(Hook):
    """Writes the student when training ends: a PE in the official layout, an encoder of others in that of its library.

    Args:
        name: File in the work folder; its suffix (.pt or .safetensors) is the format.
    """

    priority = "VERY_LOW"

    def __init__(self, name: str = "student.pt") -> None:
        if Path(name).name != name or not Path(name).suffix:
            raise OptionError(f"name {name!r} must be the name of a file, without a folder")
        self.name = name

    def after_train(self, runner: Runner) -> None:
        """Write; where weights are averaged, the average, as checkpoints hold it."""
        averaged = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        state = student_state(averaged[0] if averaged else _model(runner))
        if is_main_process():
            path = Path(runner.work_dir) / self.name
            write_tensor_file(state, path)
            kind = type(_model(runner).student).__name__
            runner.logger.info(f"the student is in {path}; load it with {kind}(..., weights='{path}')")


def student_state(model: SpatialAlignment) -> dict[str, Tensor]:
    """Weights of the student in the official layout, whole, on the main process; collective where they are sharded."""
    return gather_full(dict(model.student.encoder.state_dict()))


def copy_student(model: SpatialAlignment) -> PEBackbone | None:
    """An independent copy of the student, whole; None on other processes than the main one. Collective."""
    state = student_state(model)
    if not is_main_process():
        return None
    student = model.build_student()
    student.encoder.load_state_dict({key: value.cpu() for key, value in state.items()})
    return student.to(model.data_preprocessor.device)


def _model(runner: Runner) -> SpatialAlignment:
    model: nn.Module = unwrap(runner.model)
    if not isinstance(model, SpatialAlignment):
        raise ConfigError(f"the hooks of pe_spatial.alignment need a SpatialAlignment, not {type(model).__name__}")
    return model
