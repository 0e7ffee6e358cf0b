"""The learning rates of a mask decoder: what is new warms up first, then the encoder joins."""

from collections.abc import Sequence
from typing import Any

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from pe_spatial.common.errors import OptionError


@PARAM_SCHEDULERS.register_module()
class StagedWarmupPolyLR(LRSchedulerMixin, _ParamScheduler):
    """EoMT's schedule: a linear warm-up, and then (1 - progress) ** power to 0 at the end.

    Parameters at the full learning rate (head and queries) warm up at once. Those below it, which with a layer decay
    below 1 are the encoder's, rest meanwhile and warm up afterwards.

    Args:
        optimizer: The optimizer.
        warmup: Iterations of the two warm-ups.
        power: Of the decay.
        **kwargs: `begin`, `end`, `by_epoch`, as of every scheduler of mmengine.
    """

    def __init__(self, optimizer: Any, warmup: Sequence[int], power: float = 0.9, **kwargs: Any) -> None:
        if len(warmup) != 2 or min(warmup) < 0:
            raise OptionError(
                f"warmup {list(warmup)} must be two numbers of iterations, of the head and of the encoder"
            )
        self.warmup = (int(warmup[0]), int(warmup[1]))
        self.power = power
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        full = max(self.base_values)
        return [value * self._factor(value < full) for value in self.base_values]

    def _factor(self, is_encoder: bool) -> float:
        rest = self.warmup[0] if is_encoder else 0
        rise = self.warmup[is_encoder]
        step = self.last_step - rest
        if step < rise:
            return max(step, 0) / rise
        length = self.end - self.begin - rest - rise
        return max(0.0, 1 - (step - rise) / max(length, 1)) ** self.power
