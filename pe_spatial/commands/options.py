"""One vocabulary for all commands: what an option is called, what it means, and which values it takes.

Nothing heavy is imported here: a mistyped option is answered before torch is loaded.
"""

import argparse
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pe_spatial.common.console import print_note
from pe_spatial.common.errors import OptionError, UserError, printable, suggest

LARGEST = 2**31 - 1


# --- values -----------------------------------------------------------------------------------------------------------
def number_in(low: float, high: float = float("inf"), kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {'an integer' if kind is int else 'a number'}") from None
        if value > high:
            raise argparse.ArgumentTypeError(f"{text} is too large; give {high:g} or less")
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text} is too small; give {low:g} or more")
        return value

    return parse


def integer(minimum: int) -> Callable[[str], float]:
    """A parser of integers of at least `minimum`, and of no more than what an array can count."""
    return number_in(minimum, LARGEST, kind=int)


positive = integer(1)


def names(allowed: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names; returned in the order of `allowed`."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return [name for name in allowed if name in chosen]

    return parse


def numbers(form: str, *counts: int) -> Callable[[str], list[float]]:
    """A parser of comma-separated numbers, as many as one of `counts`; `form` says how they are written.

    Brackets around them, as of a list, do not count.
    """

    def parse(text: str) -> list[float]:
        try:
            values = [float(part) for part in text.strip().strip("[]()").split(",")]
        except ValueError:
            values = []
        if len(values) not in counts or not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"{text!r}: write {form}")
        return values

    return parse


def layers(text: str) -> list[int] | str:
    """Numbers of blocks, negative ones from the end; or all."""
    try:
        return text if text == "all" else [int(integer(-LARGEST)(part)) for part in text.split(",")]
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r}: write all, or numbers with commas, such as 5,8,-1") from None


def shard(text: str) -> tuple[int, int]:
    """The value of --shard: (I, N)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/16")
    return int(match[1]), int(match[2])


def device(text: str) -> str:
    """The value of --device; whether the machine has it is asked when torch is loaded."""
    if not re.fullmatch(r"cpu|(cuda|mps|xpu)(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device; write cpu, cuda or cuda:1")
    return text


# --- the vocabulary ---------------------------------------------------------------------------------------------------
SHARED: dict[str, dict[str, Any]] = {
    "--config": {"metavar": "NAME", "help": "a YAML file, or its name below configs/"},
    "--checkpoint": {
        "metavar": "PATH",
        "type": Path,
        "help": "a checkpoint file, the folder of a training run, or hf://OWNER/NAME",
    },
    "--input": {
        "metavar": "PATH",
        "help": "an image, a video, a folder, a list (.txt), a tar file, or a glob pattern in quotes",
    },
    "--output": {"metavar": "PATH", "type": Path, "help": "where results go"},
    "--batch-size": {"metavar": "N", "type": positive, "default": 1, "help": "images at once"},
    "--limit": {"metavar": "N", "type": positive, "help": "stop after so many; default: all"},
    "--device": {"type": device, "help": "for example cuda:1 or cpu; default: CUDA if there is any"},
    "--engine": {
        "choices": ("auto", "torch", "compile", "onnxruntime", "openvino", "tensorrt"),
        "help": "what runs the network; auto: the fastest export that passed its proof; default: torch, and "
        "auto for exported files",
    },
    "--precision": {
        "choices": ("auto", "fp32", "bf16"),
        "help": "in which a checkpoint computes; auto: bf16 where the processor has it; default: as its config says",
    },
    "--image-size": {"metavar": "N", "type": positive, "help": "side of the images in pixels"},
    "--shard": {"metavar": "I/N", "type": shard, "help": "do the I-th of N equal parts of the files, from 1"},
    "--layers": {"metavar": "N,N", "type": layers, "help": "all, or blocks from 0, or from the end if negative"},
    "--weights": {
        "metavar": "NAME",
        "help": "encoder weights instead of the config's: a file, a name, or 'none' for random ones",
    },
    "--allow-import": {
        "metavar": "PACKAGE",
        "action": "append",
        "default": [],
        "help": "a package of your own that a config or checkpoint may import; may be given several times",
    },
    "--max-pixels": {
        "metavar": "N",
        "type": positive,
        "help": "largest picture or frame that is read; default: what the free memory holds",
    },
    "--memory": {"metavar": "N", "help": "what a training may take, such as 12gb or 800mb; auto: what is free"},
    "--no-pictures": {"action": "store_true", "help": "draw no pictures"},
    "overrides": {"metavar": "key=value", "nargs": "*", "help": "entries of the config to change; values are YAML"},
    "--traceback": {"action": "store_true", "help": "show where an error comes from, also for mistakes"},
}


def add_shared(parser: argparse._ActionsContainer, *options: str, required: Collection[str] = ()) -> None:
    """Add options of the vocabulary; `parser.set_defaults` changes a default."""
    for option in options:
        action = parser.add_argument(option, **SHARED[option])
        action.required = option in required


def encoder_weights(options: argparse.Namespace) -> list[str]:
    """The override of the config that `--weights` stands for, if it is given."""
    if not options.weights:
        return []
    return [f"model.backbone.weights={'null' if options.weights == 'none' else options.weights}"]


def take_override(options: argparse.Namespace, name: str) -> None:
    """Give a `key=value` back to the overrides that an argument in front of them has taken."""
    value = getattr(options, name)
    if value and "=" in value and not Path(value).exists():
        options.overrides.insert(0, value)
        setattr(options, name, "")


def slices(options: argparse.Namespace, config: Mapping[str, Any], resized: bool) -> list[str]:
    """The overrides of the config of a detector that `--slices` and `--slice-overlap` stand for, if they are given.

    Args:
        options: Of the command.
        config: Of the model.
        resized: Whether another option says how large images are.

    Raises:
        UserError: An overlap without slices.
    """
    from pe_spatial.inference.tasks import slicing

    if options.slices is not None:
        return slicing(config, int(options.slices), options.slice_overlap, resized)
    if options.slice_overlap is not None:
        raise UserError(
            f"--slice-overlap {options.slice_overlap:g} needs --slices, because it sets the overlap of these "
            f"windows; give --slices too"
        )
    return []


def resolve_precision(options: argparse.Namespace, path: str | Path) -> None:
    """Let `--precision auto` be what it stands for on the device.

    Args:
        options: Of the command.
        path: The checkpoint.

    Raises:
        OptionError: An exported file runs, or may.
    """
    from pe_spatial.common.devices import choose_device
    from pe_spatial.engines.header import is_exported
    from pe_spatial.training.amp import precision_for

    if options.precision is None:
        return
    if options.engine not in (None, "torch", "compile") or is_exported(Path(path)):
        raise OptionError(
            f"an exported file keeps its precision, so --precision {options.precision} is for checkpoints with "
            "--engine torch or compile; remove it, or export the checkpoint with it"
        )
    options.precision = precision_for(options.precision, choose_device(options.device))


# --- the parser -------------------------------------------------------------------------------------------------------
class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written; defaults are shown where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []) or (action.help and "default" in action.help):
            return action.help
        if isinstance(action.default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, action.default)).replace('%', '%%')})"
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of one command.

    It names the nearest option for one that is mistyped, and takes old spellings, which it says.

    Args:
        program: How the command is called.
        description: Its help.
    """

    def __init__(self, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        # or argparse would take the value of `--layers -3,-1` for an option
        self._negative_number_matcher = re.compile(r"-(\d+|\d*\.\d+)(,|$)")
        self._old_options: dict[str, str] = {}
        self._old_positionals: list[str] = []

    def add_old_spellings(self, options: Mapping[str, str] = {}, positionals: Sequence[str] = ()) -> None:  # noqa: B006
        """Take spellings of earlier versions; the help does not show them.

        Args:
            options: Old name of an option to its present one.
            positionals: The options that earlier versions took without a name, in their order.
        """
        self._old_options.update(options)
        self._old_positionals.extend(positionals)

    def parse_command(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments; a mistake ends the program with exit status 2."""
        arguments = [self._present_spelling(argument) for argument in arguments]
        self._refuse_unknown(arguments)
        if not self._old_positionals:
            return self.parse_intermixed_args(arguments)
        return self._parse_old_positionals(arguments)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and exit with status 2."""
        self.exit(2, f"error: {printable(message)}; see {self.prog} --help\n")

    def _present_spelling(self, argument: str) -> str:
        option, equals, value = argument.partition("=")
        if option not in self._old_options:
            return argument
        print_note(f"{option} is now {self._old_options[option]}")
        return self._old_options[option] + equals + value

    def _refuse_unknown(self, arguments: Sequence[str]) -> None:
        known = self._option_string_actions
        for argument in arguments:
            option = argument.partition("=")[0]
            if argument == "--":
                return
            if option.startswith("--") and option not in known:
                self.error(f"there is no option {option}; {suggest(option, [name for name in known if len(name) > 2])}")

    def _parse_old_positionals(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments of which some options may stand without their names."""
        options = [self._option_string_actions[name] for name in self._old_positionals]
        takes_overrides = any(action.dest == "overrides" for action in self._actions)
        if not takes_overrides:
            self.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
        needed = [action for action in options if action.required]
        for action in needed:
            action.required = False
        parsed = self.parse_intermixed_args(arguments)
        values: list[str] = []
        overrides: list[str] = []
        for value in parsed.overrides:
            (overrides if takes_overrides and "=" in value else values).append(value)
        missing = [action for action in options if getattr(parsed, action.dest) == action.default]
        for action, value in zip(missing, values, strict=False):
            print_note(f"{value} is now {action.option_strings[0]} {value}")
            setattr(parsed, action.dest, self._get_value(action, value))
        if unused := values[len(missing) :]:
            self.error(f"unexpected argument {unused[0]!r}")
        if absent := [a.option_strings[0] for a in needed if getattr(parsed, a.dest) is None]:
            self.error(f"the following arguments are required: {', '.join(absent)}")
        parsed.overrides = overrides
        return parsed
