"""How long a run will take, told as soon as some of its iterations have been timed."""

import time
from statistics import median
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pe_spatial.common.errors import require_positive
from pe_spatial.training.progress import duration


@HOOKS.register_module()
class TimeEstimateHook(Hook):
    """Tells after the first iterations how long the others will take; the very first ones warm up and do not count.

    Args:
        warmup: Iterations that do not count.
        timed: Iterations of which the median is taken.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, warmup: int = 2, timed: int = 10) -> None:
        require_positive(timed=timed)
        self.warmup = warmup
        self.timed = timed
        self._ends: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Begin anew."""
        self._ends = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note the time, and tell when enough iterations are timed; a run that is as short is over before."""
        if len(self._ends) > self.warmup + self.timed:
            return
        self._ends.append(time.monotonic())
        left = runner.max_iters - runner.iter - 1
        if len(self._ends) != self.warmup + self.timed + 1 or left < 1:
            return
        times = self._ends[self.warmup :]
        seconds = median(b - a for a, b in zip(times, times[1:], strict=False))
        runner.logger.info(
            f"estimate: {duration(seconds * left)} for the other {left} iterations, at {seconds:.2f} s each (median of "
            f"{self.timed}), without validation"
        )
