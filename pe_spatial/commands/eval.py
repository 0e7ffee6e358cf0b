"""Score a training run or a checkpoint on the data of its config.

    pe-spatial eval RUN
    pe-spatial eval FILE [key=value ...]
    pe-spatial eval FILE --config pe_g_coco.yaml
    pe-spatial eval RUN --slices 640
    pe-spatial eval RUN --precision auto
    pe-spatial eval --config segmentation/open_vocabulary_pe_core_l14_ade20k
    pe-spatial eval RUN/exported/onnx_fp32/model.onnx
    pe-spatial eval hf://OWNER/NAME --output OUT val_dataloader.dataset.data_root=DATA

For a run, the best checkpoint is evaluated, or the last one if none is marked as best. A checkpoint contains its
config; `--config` replaces it. A model without training needs only the config.
Results go to the folder `evaluation` of the run, or to `--output`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared, resolve_precision, slices, take_override
from pe_spatial.commands.task_options import add_task_option
from pe_spatial.commands.train import config_with_folder, recall, use_device
from pe_spatial.common.errors import OptionError

if TYPE_CHECKING:
    from mmengine.config import Config

RESUMES = "run the same command again to start the evaluation again"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN|FILE", help="the folder of a training run, a checkpoint, or hf://…"
    )
    add_shared(parser, "--config", "--checkpoint", "--output", "--device", "--engine", "--precision")
    add_shared(parser, "--allow-import", "overrides")
    for name in ("slices", "slice_overlap"):
        add_task_option(parser, name)
    parser.add_old_spellings({"--work-dir": "--output"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """One thing is scored."""
    take_override(options, "run")
    if options.run and options.checkpoint:
        parser.error(f"give {options.run} or --checkpoint {options.checkpoint}, not both")
    if not options.run and not options.checkpoint and not options.config:
        parser.error("give the folder of a training run, or a checkpoint")


def run(options: argparse.Namespace) -> int:
    """Score."""
    use_device(options.device)
    if not options.run and not options.checkpoint:
        return _score_untrained(options)
    from pe_spatial.training.hub import is_address
    from pe_spatial.training.launch import evaluate

    source = options.run or options.checkpoint
    if is_address(source) and not options.output:
        raise OptionError(f"{source} has no folder on this machine; set --output to a folder for the results")
    config, path = recall(source, options.overrides, options.config)
    _adapt(options, config, path)
    evaluate(config, path, options.output, engine=options.engine)
    return 0


def _score_untrained(options: argparse.Namespace) -> int:
    """Score the model of a config that names all of its weights."""
    from pe_spatial.training.launch import evaluate, needs_training

    config = config_with_folder(options.config, options.overrides, None)
    if needs_training(config):
        raise OptionError(
            f"{options.config} describes a {config.model.type}, which needs trained weights; give its run, or a "
            "checkpoint"
        )
    _adapt(options, config, Path(options.config))
    evaluate(config, None, options.output, untrained=True)
    return 0


def _adapt(options: argparse.Namespace, config: Config, path: Path) -> None:
    """Write the windows and the precision that are asked for into a config."""
    from pe_spatial.common.devices import choose_device
    from pe_spatial.training.amp import compute_in
    from pe_spatial.training.config import override_config

    if sliced := slices(options, config, resized=False):
        override_config(config, sliced, path)
    resolve_precision(options, path)
    compute_in(config, options.precision, choose_device(options.device))
