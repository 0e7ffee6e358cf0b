"""What the best constant depth scores on the validation data of a config: the least that a model has to beat.

    python tools/dev/constant_depth.py --config demo/depth_dpt_tiny_shapes.yaml [key=value …]

Exit status: 0 done, 2 a mistake in the command, the config or the files.
"""

import argparse
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from torch import Tensor

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import OptionError
from pe_spatial.depth.metrics import MEASURES, DepthErrorMetric
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import naming_mistakes


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add_shared(parser, "--config", "--allow-import", "overrides", required=["--config"])


def run(options: argparse.Namespace) -> int:
    """Print the best constants."""
    MMLogger.get_instance("constant").setLevel(logging.WARNING)
    config = load_config(options.config, options.overrides)
    with naming_mistakes():
        dataset = DATASETS.build(config.val_dataloader.dataset)
    targets = [dataset[index]["data_samples"].gt_depth.data for index in range(len(dataset))]
    with naming_mistakes():
        best = best_constants(targets, {key: value for key, value in config.val_evaluator.items() if key != "type"})
    print(f"best constant for each measure, over {len(targets)} depth maps")
    for name, (value, constant) in best.items():
        print(f"  {name + MEASURES[name].arrow:10} {value:9.4f}  at {constant:7.3f} m  ({MEASURES[name].meaning})")
    return 0


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
        raise OptionError(f"alignment={metric.alignment!r} makes all constants equal; remove it")
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


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
