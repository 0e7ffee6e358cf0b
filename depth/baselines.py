"""The baseline that every model has to beat: one constant depth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.depth.metrics import MEASURES, DepthErrorMetric


def best_constants(
    targets: Sequence[Tensor], evaluator: Mapping[str, Any], number: int = 100
) -> dict[str, tuple[float, float]]:
    """Every measure's best value over constant predictions, found on the evaluated data themselves, and that constant.

    No constant prediction is better, up to the step of the search: a factor of (greatest/least)^(1/number).

    Args:
        targets: Measured depth, [1, H, W] each, in meters.
        evaluator: Arguments of `DepthErrorMetric` without an alignment, which would make all constants equal.
        number: Constants tried, in geometric steps over the range.

    Raises:
        OptionError: An alignment.
    """
    metric = DepthErrorMetric(**evaluator)
    if metric.alignment is not None:
        raise OptionError(f"alignment={metric.alignment!r} makes all constants equal; leave it out")
    least, greatest = metric.depth_range
    best: dict[str, tuple[float, float]] = {}
    for constant in torch.linspace(math.log(least), math.log(greatest), number).exp().tolist():
        values = _judge(metric, targets, constant)
        for name, measure in MEASURES.items():
            sign = 1 if measure.lower_is_better else -1
            if name not in best or sign * values[name] < sign * best[name][0]:
                best[name] = (values[name], constant)
    return best


def _judge(metric: DepthErrorMetric, targets: Sequence[Tensor], constant: float) -> dict[str, float]:
    metric.results.clear()
    for target in targets:
        prediction = {"data": torch.full_like(target, constant)}
        metric.process(None, [{"pred_depth": prediction, "gt_depth": {"data": target}, "depth_is_metric": True}])
    return metric.compute_metrics(metric.results)
