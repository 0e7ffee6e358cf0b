"""How long a config trains on one image: a few whole steps, and the loading of their images, as the run will do it."""

import gc
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

from pe_spatial.common.devices import available_cores, choose_device, forget_peak
from pe_spatial.training.planner.tracking import teachers_of
from pe_spatial.training.planner.variation import build_model, model_settings, prepare_iteration, variation_of

Clock = Callable[[], float]
_STEPS, _ENOUGH = 4, 20.0  # timed at most; seconds after which no further one is
_LOADED = 16  # images at most


@dataclass(frozen=True)
class StepTime:
    """What one image takes, in seconds.

    Args:
        step: Of the forward and the backward pass and of the optimizer.
        teachers: The part of a step that frozen teachers take; 0 where there are none.
        loading: Of one process that loads it.
        workers: Processes that load; 0 loads between the steps.
        threads: That compute a step.
        cores: Of the machine, which steps and workers share where a CPU trains; None where another device does.
    """

    step: float
    teachers: float
    loading: float
    workers: int
    threads: int
    cores: int | None

    @property
    def image(self) -> float:
        """The longest of the three: the steps, the workers, and what the cores have to do for both."""
        if not self.workers:
            return self.step + self.loading
        shared = (self.step * self.threads + self.loading) / self.cores if self.cores else 0.0
        return max(self.step, self.loading / self.workers, shared)

    @property
    def waits(self) -> bool:
        """Whether the workers are too slow for the steps."""
        return bool(self.workers) and self.loading / self.workers > self.step


def time_training(config: Any, clock: Clock = time.perf_counter) -> StepTime:
    """Build the model of a config with random weights, and train it for a few steps on images of its data.

    Args:
        config: A loaded config, complete.
        clock: That is read; a test on a busy machine takes the time of the processor.

    Raises:
        UnreadableFile: An image cannot be read, as in the run.
    """
    device = choose_device()
    with torch.random.fork_rng(), DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        loader = config.train_dataloader
        dataset = DATASETS.build(loader.dataset)
        number = min(len(dataset), loader.batch_size, _LOADED)
        dataset[0]  # opens files and archives
        start = clock()
        samples = [dataset[index] for index in range(number)]
        loading = (clock() - start) / number
        batch = pseudo_collate([samples[index % number] for index in range(loader.batch_size)])
        step, teachers = (found / loader.batch_size for found in _step(config, device, batch, clock))
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    forget_peak()
    cores = None if device.type == "cuda" else available_cores()
    return StepTime(step, teachers, loading, loader.num_workers, torch.get_num_threads(), cores)


def _step(config: Any, device: torch.device, batch: Any, clock: Clock) -> tuple[float, float]:
    """Seconds of a step and of the teachers in it, without the first, which allocates what the others use again."""
    model = build_model(model_settings(config, variation_of(config)), "cpu").to(device)
    prepare_iteration(config, model)
    optimizer = _optimizer(config, model)

    def now(*_: Any) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    entered: list[float] = []
    left: list[float] = []
    for teacher in teachers_of(model):
        encoder = getattr(teacher, "backbone", teacher)
        encoder.register_forward_pre_hook(lambda *_: entered.append(now()))
        encoder.register_forward_hook(lambda *_: left.append(now()))
    steps: list[float] = []
    taught: list[float] = []
    while len(steps) < 1 + _STEPS and sum(steps) < _ENOUGH:
        fresh = deepcopy(batch)  # models change their samples
        entered.clear()
        left.clear()
        start = now()
        model.train_step(fresh, optimizer)
        steps.append(now() - start)
        taught.append(sum(left) - sum(entered))
    return mean(steps[1:] or steps), mean(taught[1:] or taught)


def _optimizer(config: Any, model: nn.Module) -> Any:
    wrapper = config.optim_wrapper.to_dict()
    kind = wrapper.pop("constructor", "DefaultOptimWrapperConstructor")
    return OPTIM_WRAPPER_CONSTRUCTORS.get(kind)(wrapper, wrapper.pop("paramwise_cfg", None))(model)
