"""Hooks that keep a run reproducible and stop it when it has diverged."""

import math
import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.engine.errors import DivergedError


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds every generator before each training iteration from (seed of the run, iteration, rank).

    What an iteration draws (dropout, proposal sampling) is then independent of everything before it: a resumed run
    equals an uninterrupted one without saving generator states, and validating more often changes nothing.
    """

    priority = "VERY_HIGH"

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed."""
        entropy = np.random.SeedSequence([runner.seed, runner.iter, get_rank()])
        torch_seed, numpy_seed, python_seed = entropy.generate_state(3).tolist()
        torch.manual_seed(torch_seed)  # all CUDA devices too
        np.random.seed(numpy_seed)
        random.seed(python_seed)


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a run whose loss is NaN or infinite, before its weights reach a checkpoint."""

    priority = "ABOVE_NORMAL"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Look at the sum of the losses.

        Raises:
            DivergedError: Names the iteration and every loss.
        """
        if outputs is None or math.isfinite(outputs["loss"].item()):
            return
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in outputs.items() if "loss" in name)
        raise DivergedError(
            f"the loss is not finite in iteration {runner.iter + 1}: {terms}. Lower the learning rate, lengthen the "
            "warm-up, clip gradients (optim_wrapper.clip_grad) or, with float16, train in bfloat16; --resume continues "
            "from the last checkpoint"
        )
