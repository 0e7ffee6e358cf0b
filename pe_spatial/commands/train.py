"""Train a model on your own data or from a config, or continue a run.

    pe-spatial train detection --data FOLDER --model mask_rcnn-s --epochs 20 [key=value ...]
    pe-spatial train alignment --data PHOTOS --teacher PE-Spatial-G14-448 --model PE-Core-S16-384
    pe-spatial train --config pe_g_coco.yaml [key=value ...]
    pe-spatial train --config pe_g_coco.yaml --memory 12gb
    pe-spatial train --config CONFIG --cache-features     # where the encoder is frozen
    pe-spatial train --resume RUN
    torchrun --nproc-per-node 8 -m pe_spatial train --config pe_g_coco.yaml
    srun --ntasks-per-node 8 --gpus-per-node 8 pe-spatial train --config pe_g_coco.yaml

With a task (detection, instances, segmentation, panoptic, depth, alignment), the command recognizes the format of the
data and fills in a recipe of configs/own. `--print-config` shows the resulting config, and `--config` accepts it.

The folder of a run contains its config with all changes: `--resume RUN` needs nothing else, and `pe-spatial
eval RUN` evaluates it. With `--config` or `key=value`, `--resume` continues with other values and prints them.
`--memory` changes batch, precision and more until the training fits, as `pe-spatial plan` does.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared, positive, take_override
from pe_spatial.commands.own_options import add_own_options, given_options, request_of
from pe_spatial.common.console import print_note
from pe_spatial.common.errors import suggest
from pe_spatial.own.models import TASKS

if TYPE_CHECKING:  # takes seconds
    from mmengine.config import Config

RESUMES = "`pe-spatial train --resume RUN`, with the folder of the run, continues from its last checkpoint"


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("task", nargs="?", metavar="TASK", help=f"for data of your own: {', '.join(TASKS)}")
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
    mode.add_argument("--eval-only", action="store_true", help="evaluate --checkpoint; do not train (as `eval` does)")
    parser.add_argument(
        "--cache-features",
        nargs="?",
        const="1",
        metavar="K",
        help="compute the maps of a frozen encoder once, of K augmented views of every picture, and train on them",
    )
    add_shared(parser, "--memory")
    parser.add_argument("--no-data-check", action="store_true", help="do not check samples of the data first")
    add_own_options(parser)
    parser.add_old_spellings({"--work-dir": "--output", "--batch": "--batch-size"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse what contradicts itself, and tell the value of an option from a `key=value` that follows it."""
    take_override(options, "resume")
    take_override(options, "cache_features")
    if options.cache_features is not None:
        try:
            options.cache_features = positive(options.cache_features or "1")
        except argparse.ArgumentTypeError as error:
            parser.error(f"argument --cache-features: {error}")
    take_override(options, "task")
    given = given_options(options)
    if not options.task and given:
        parser.error(f"{given[0]} belongs to a task: pe-spatial train {{{','.join(TASKS)}}} --data PATH {given[0]} …")
    if options.task:
        _check_task(options, parser)
        return
    if options.checkpoint and not options.eval_only:
        parser.error("--checkpoint belongs to --eval-only; to start training from weights use load_from=FILE")
    if options.resume and options.output:
        parser.error("--resume RUN continues in the folder of the run; leave out --output")
    goes_on = options.resume is not None or options.resume_or_start or options.eval_only
    if options.memory and (not options.config or goes_on):
        parser.error("--memory plans a training that begins: it needs --config, and no --resume… and no --eval-only")
    if not options.config and not options.resume and not (options.eval_only and (options.checkpoint or options.output)):
        parser.error("give --config, or the folder of a run with --resume")


def _check_task(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse what a training on data of one's own has no use for."""
    if options.task not in TASKS:
        parser.error(f"there is no task {options.task!r}; {suggest(options.task, TASKS)}")
    for name in ("config", "checkpoint", "resume", "resume_or_start", "eval_only"):
        if getattr(options, name) not in (None, False):
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} belongs to runs without a task; `pe-spatial train --resume RUN` continues any run")
    if options.data is None:
        parser.error("give --data, a folder or the file that describes the dataset")


def run(options: argparse.Namespace) -> int:
    """Train."""
    use_device(options.device)
    if options.task:
        return _run_task(options)
    if options.memory:
        options.overrides += planned_overrides(options)
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
    _change_hooks(config, options)
    train(config, "if-any" if options.resume_or_start else "no" if options.resume is None else "yes")
    return 0


def _change_hooks(config: "Config", options: argparse.Namespace) -> None:
    """Add and leave out the hooks that options stand for."""
    hooks = config.setdefault("default_hooks", {})
    if options.cache_features:
        hooks["cache_features"] = {"type": "CachedFeaturesHook", "views": options.cache_features}
    if options.no_data_check:
        hooks.pop("data_check", None)


def _run_task(options: argparse.Namespace) -> int:
    """Train on data of one's own, or print the config of it."""
    from pe_spatial.own.compose import compose
    from pe_spatial.own.run import train_composition
    from pe_spatial.training.config import config_text

    composition = compose(request_of(options))
    _change_hooks(composition.config, options)
    if options.print_config:
        print("".join(f"# {line}\n" for text in composition.lines for line in text.splitlines()), end="")
        print(config_text(composition.config), end="")
        return 0
    train_composition(composition)
    return 0


def planned_overrides(options: argparse.Namespace) -> list[str]:
    """What fits the config into `--memory`, which is said."""
    from pe_spatial.common.memory import parse_memory
    from pe_spatial.training.config import load_config
    from pe_spatial.training.planner import plan

    found = plan(load_config(options.config, options.overrides), parse_memory(options.memory), options.device)
    print_note(found.summary(found.chosen.overrides))
    return list(found.chosen.overrides)


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
