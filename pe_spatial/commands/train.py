"""Train a model from a config, or continue a run.

    pe-spatial train --config pe_g_coco.yaml [key=value ...]
    pe-spatial train --resume RUN
    torchrun --nproc-per-node 8 -m pe_spatial train --config pe_g_coco.yaml
    srun --ntasks-per-node 8 --gpus-per-node 8 pe-spatial train --config pe_g_coco.yaml

A run's folder remembers its config, with all changes: `--resume RUN` needs nothing else, and `pe-spatial eval RUN`
scores it. With `--config` or `key=value`, `--resume` continues with other values and names them.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared, positive

if TYPE_CHECKING:  # takes seconds
    from mmengine.config import Config

RESUMES = "`pe-spatial train --resume RUN`, with the folder of the run, continues from its last checkpoint"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_shared(parser, "--config", "--output", "--device", "--checkpoint", "--allow-import", "overrides")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="continue the run in this folder (default: --output) from its last checkpoint",
    )
    mode.add_argument("--resume-or-start", action="store_true", help="continue the run in --output if there is one")
    mode.add_argument("--eval-only", action="store_true", help="score --checkpoint; do not train (as `eval` does)")
    parser.add_argument(
        "--cache-features",
        nargs="?",
        const="1",
        metavar="K",
        help="compute the maps of a frozen encoder once, of K augmented views of every picture, and train on them",
    )
    parser.add_argument("--no-data-check", action="store_true", help="do not look at samples of the data first")
    parser.add_old_spellings({"--work-dir": "--output"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse what contradicts itself, and tell the value of an option from a `key=value` that follows it."""
    take_override(options, "resume")
    take_override(options, "cache_features")
    if options.cache_features is not None:
        try:
            options.cache_features = positive(options.cache_features or "1")
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --cache-features: {error}")
    if options.checkpoint and not options.eval_only:
        parser.error("--checkpoint belongs to --eval-only; to start training from weights use load_from=FILE")
    if options.resume and options.output:
        parser.error("--resume RUN continues in the folder of the run; leave out --output")
    if not options.config and not options.resume and not (options.eval_only and (options.checkpoint or options.output)):
        parser.error("give --config, or the folder of a run with --resume")


def run(options: argparse.Namespace) -> int:
    """Train."""
    use_device(options.device)
    from pe_spatial.training.launch import evaluate, train
    from pe_spatial.training.run_config import config_of_run

    if options.config:
        config = config_with_folder(options.config, options.overrides, options.resume or options.output)
    elif options.eval_only:
        config, options.checkpoint = recall(options.checkpoint or options.output, options.overrides)
    else:
        config = config_of_run(Path(options.resume), options.overrides)
    if options.eval_only:
        evaluate(config, options.checkpoint)
        return 0
    if options.cache_features:
        config.default_hooks["cache_features"] = {"type": "CachedFeaturesHook", "views": options.cache_features}
    if options.no_data_check:
        config.get("default_hooks", {}).pop("data_check", None)
    train(config, "if-any" if options.resume_or_start else "no" if options.resume is None else "yes")
    return 0


def recall(run_or_file: str | Path, overrides: list[str], name: str | None = None) -> "tuple[Config, Path]":
    """A checkpoint, a file or the best or last of a run, after its config: the one of that name, or its own."""
    from pe_spatial.training.checkpoint import resolve_checkpoint
    from pe_spatial.training.run_config import config_of_checkpoint

    path = resolve_checkpoint(run_or_file)
    if name is not None:
        return config_with_folder(name, overrides, path.parent), path
    config = config_of_checkpoint(path, overrides)
    config.work_dir = str(path.parent)
    return config, path


def config_with_folder(name: str, overrides: list[str], folder: str | Path | None) -> "Config":
    """A loaded config with `work_dir`: as given, else as in the config, else `work_dirs/<name of the config>`."""
    from pe_spatial.training.config import load_config

    config = load_config(name, overrides)
    config.work_dir = str(folder or config.get("work_dir") or Path("work_dirs") / Path(config.filename).stem)
    return config


def take_override(options: argparse.Namespace, name: str) -> None:
    """Give a `key=value` back to the overrides that an argument in front of them has taken."""
    value = getattr(options, name)
    if value and "=" in value and not Path(value).exists():
        options.overrides.insert(0, value)
        setattr(options, name, "")


def use_device(name: str | None) -> None:
    """Let the run take one device; without a name, mmengine takes CUDA if there is any.

    Raises:
        UserError: No such device.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # mmengine takes a GPU wherever it sees one
    elif name is not None:
        import torch

        from pe_spatial.common.devices import choose_device

        torch.cuda.set_device(choose_device(name))
