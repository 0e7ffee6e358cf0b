"""`pe-spatial NAME`: one shell around all commands.

A command is a module of this package with a docstring, which is its help, and two functions: `add_arguments(parser)`
and `run(options) -> int`, the exit status. Both must be reachable without a heavy import: what needs torch is imported
inside `run`, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

COMMANDS = {
    "train": "train a model from a config",
    "eval": "score a checkpoint on the data of its config",
    "predict": "run a model over images, folders and videos",
    "track": "follow objects through videos",
    "check": "examine the data of a config",
    "convert": "convert weights between layouts",
    "sweep": "compare the layers of a frozen encoder",
    "cache-teacher": "compute the maps of the SAM teacher once",
    "visualize": "draw the features of an encoder",
    "score": "score result masks of any tracker",
    "demo": "make a small synthetic data set",
    "benchmark": "measure speed and memory",
    "configs": "list, show and copy recipes",
    "env": "report versions and devices",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pe-spatial NAME ...`; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="pe-spatial",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Dense prediction with Perception Encoders.\n\n{listing}",
        epilog="`pe-spatial NAME --help` explains one.",
    )
    parser.add_argument("name", choices=COMMANDS, metavar="NAME")
    options = parser.parse_args(arguments[:1])
    return run_command(options.name, arguments[1:], f"pe-spatial {options.name}")


def run_command(name: str, arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run one command; returns its exit status."""
    module: ModuleType = import_module(f"pe_spatial.commands.{name.replace('-', '_')}")
    return int(module.main(arguments))
