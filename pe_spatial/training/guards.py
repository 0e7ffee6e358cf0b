"""Hooks that keep a run reproducible and stop it when it has diverged."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from pe_spatial.common.errors import DivergedError
from pe_spatial.common.tensors import write_torch_file
from pe_spatial.data.stacked import StackedSamples


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seeds every generator before each training iteration from (seed of the run, iteration, rank).

    What an iteration draws (dropout, proposal sampling) is then independent of everything before it: a resumed run
    equals an uninterrupted one without saving generator states, and validating more often changes nothing.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Choose how to seed torch: where there is the CPU alone, looking for other devices takes a millisecond."""
        alone = not torch.accelerator.is_available()
        self._seed_torch = torch.default_generator.manual_seed if alone else torch.manual_seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed."""
        entropy = np.random.SeedSequence([runner.seed, runner.iter, get_rank()])
        torch_seed, numpy_seed, python_seed = entropy.generate_state(3).tolist()
        self._seed_torch(torch_seed)  # all CUDA devices too
        np.random.seed(numpy_seed)
        random.seed(python_seed)


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a run whose loss is NaN or infinite, before its weights reach a checkpoint.

    The batch goes to `diverged_iter_N_rank_R.pth` in the work folder: `iter`, `losses`, `inputs` and `data_samples` (as
    dicts), before normalization. With the last checkpoint and `--resume` the same iteration comes again, exactly.
    """

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
        losses = {name: value.item() for name, value in outputs.items() if "loss" in name}
        terms = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        path = Path(runner.work_dir) / f"diverged_iter_{runner.iter + 1}_rank_{get_rank()}.pth"
        batch = data_batch if isinstance(data_batch, dict) else {"inputs": data_batch}
        write_torch_file(_plain({"iter": runner.iter + 1, "losses": losses, **batch}), path)
        raise DivergedError(
            f"the loss is not finite in iteration {runner.iter + 1}: {terms}. Lower the learning rate, lengthen the "
            "warm-up, clip gradients (optim_wrapper.clip_grad) or, with float16, train in bfloat16; --resume continues "
            f"from the last checkpoint. The batch is in {path}"
        )


def _plain(value: Any) -> Any:
    """A batch as plain containers of tensors, which torch loads with weights_only."""
    if isinstance(value, BaseDataElement):
        return {name: _plain(item) for name, item in value.all_items()}
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | StackedSamples):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value if isinstance(value, int | float | str | None) else str(value)
