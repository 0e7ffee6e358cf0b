"""Train a model, or score a checkpoint, from a config.

    python tools/train_net.py --config pe_g_coco.yaml [key=value ...]
    torchrun --nproc-per-node 8 tools/train_net.py --config pe_g_coco.yaml
    srun --ntasks-per-node 8 --gpus-per-node 8 python tools/train_net.py --config pe_g_coco.yaml
    python tools/train_net.py --config pe_g_coco.yaml --eval-only --checkpoint FILE

Exit status: 0 done, 1 a bug (with traceback), 2 a mistake in the command, the config or the files, 3 the loss is no
longer finite, 130 interrupted.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pe_spatial.common.errors import DivergedError, UserError
from pe_spatial.training.config import load_config
from pe_spatial.training.launch import evaluate, train


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, or its name below configs/")
    parser.add_argument("--work-dir", type=Path, help="where results go; default: work_dirs/<name of the config>")
    parser.add_argument(
        "--checkpoint", type=Path, help="with --eval-only; default: the best, else the last, of work-dir"
    )
    parser.add_argument("--no-data-check", action="store_true", help="do not look at samples of the data first")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from, also for mistakes")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue the run in work-dir from its last checkpoint")
    mode.add_argument("--resume-or-start", action="store_true", help="continue the run in work-dir if there is one")
    mode.add_argument("--eval-only", action="store_true", help="score a checkpoint; do not train")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config entries to change; values are YAML")
    options = parser.parse_intermixed_args(arguments)
    if options.checkpoint and not options.eval_only:
        parser.error("--checkpoint belongs to --eval-only; to start training from weights use load_from=FILE")
    return options


def run(options: argparse.Namespace) -> None:
    config = load_config(options.config, options.overrides)
    config.work_dir = str(options.work_dir or config.get("work_dir") or Path("work_dirs") / Path(config.filename).stem)
    if options.no_data_check:
        config.get("default_hooks", {}).pop("data_check", None)
    if options.eval_only:
        evaluate(config, options.checkpoint)
    else:
        train(config, "if-any" if options.resume_or_start else "yes" if options.resume else "no")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (UserError, OSError) as error:
        if options.traceback:
            traceback.print_exc()
        # a loader process puts its traceback before the message
        message = str(error).strip().splitlines()[-1] if "Original Traceback" in str(error) else error
        print(f"error: {message}", file=sys.stderr)
        return 3 if isinstance(error, DivergedError) else 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --resume continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
