"""What the best constant depth scores on the validation data of a config: the least that a model has to beat.

    python tools/dev/constant_depth.py --config demo/depth_dpt_tiny_shapes.yaml [key=value …]

Exit status: 0 done, 2 a mistake in the command, the config or the files.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.commands.shell import execute
from pe_spatial.depth.baselines import best_constants
from pe_spatial.depth.metrics import MEASURES
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import naming_mistakes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns its exit status."""
    parser = CommandParser("constant_depth.py", __doc__)
    add_shared(parser, "--config", "--traceback", "overrides", required=["--config"])
    return execute(run, parser.parse_command(sys.argv[1:] if arguments is None else arguments))


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


if __name__ == "__main__":
    raise SystemExit(main())
