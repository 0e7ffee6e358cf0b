"""What the best constant depth scores on the validation data of a config: the least that a model has to beat.

    python tools/constant_depth.py --config demo/depth_dpt_tiny_shapes.yaml [key=value …]

Exit status: 0 done, 2 a mistake in the command, the config or the files.
"""

import argparse
import logging
import sys

from mmengine.logging import MMLogger
from mmengine.registry import DATASETS

from pe_spatial.common.errors import UserError
from pe_spatial.depth.baselines import best_constants
from pe_spatial.depth.metrics import MEASURES
from pe_spatial.training.config import load_config


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, or its name below configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config entries to change; values are YAML")
    options = parser.parse_intermixed_args(arguments)
    MMLogger.get_instance("constant").setLevel(logging.WARNING)
    try:
        config = load_config(options.config, options.overrides)
        dataset = DATASETS.build(config.val_dataloader.dataset)
        targets = [dataset[index]["data_samples"].gt_depth.data for index in range(len(dataset))]
        evaluator = {key: value for key, value in config.val_evaluator.items() if key != "type"}
        best = best_constants(targets, evaluator)
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"best constant for each measure, over {len(targets)} depth maps")
    for name, (value, constant) in best.items():
        print(f"  {name + MEASURES[name].arrow:10} {value:9.4f}  at {constant:7.3f} m  ({MEASURES[name].meaning})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
