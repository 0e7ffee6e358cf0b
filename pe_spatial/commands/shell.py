"""`pe-spatial NAME`: one shell around all commands.

A command is a module of this package with a docstring, which is its help, and two functions: `add_arguments(parser)`
and `run(options) -> int`, the exit status. It may have `check(options, parser)`, which calls `parser.error` where
options contradict each other, and `RESUMES`, which says how to go on after an interruption. A module with
`SUBCOMMANDS`, a mapping of names to functions like `add_arguments`, is several: `options.subcommand` has the name, and
the docstring of the function is the help. A command of two words (`convert data`) is a module `convert_data`.

Importing a command must import nothing heavy: `run` does, so that `--help` and a mistyped option answer at once.

Exit status: 0 done, 1 a bug (with traceback) or work that is done in part, 2 a mistake in the command, the config or
the files, 3 the loss is no longer finite, 130 interrupted (Ctrl-C or SIGTERM).
"""

import argparse
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from textwrap import dedent
from types import FrameType, ModuleType

from pe_spatial import __version__
from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.allocator import keep_freed_memory
from pe_spatial.common.console import plain_warnings, print_error, print_note
from pe_spatial.common.errors import DivergedError, UserError, printable, suggest
from pe_spatial.common.memory import allowing_pixels
from pe_spatial.common.trust import trusting

COMMANDS = {
    "train": "train a model from a config",
    "plan": "which ways to train fit into a memory",
    "eval": "score a checkpoint on the data of its config",
    "compare": "put the results of several runs side by side",
    "predict": "run a model over images, folders and videos",
    "features": "write the features of an encoder to files",
    "classify": "name what pictures and videos show, in words of your own",
    "index": "make pictures and videos searchable by words",
    "search": "find pictures and videos by words or by a picture",
    "export": "write a model for another engine, with a proof",
    "push": "share a trained model on the Hugging Face hub",
    "track": "follow objects through videos",
    "check": "examine the data of a config",
    "convert": "convert weights between layouts",
    "convert data": "convert a dataset between formats",
    "sweep": "compare the layers of a frozen encoder",
    "cache-teacher": "compute the maps of the SAM teacher once",
    "visualize": "draw the features of an encoder",
    "score": "score result masks of any tracker",
    "demo": "make a small synthetic dataset",
    "benchmark": "measure speed and memory",
    "configs": "list, show and copy recipes",
    "env": "report versions, devices and extras",
}
BUG = (
    f"This is a bug in pe_spatial {__version__}, not a mistake in the command. "
    "Please report it with these lines and the output of `pe-spatial env`."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `pe-spatial NAME ...`; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        print(f"pe_spatial {__version__}")
        return 0
    name, rest = choose("pe-spatial", "Dense prediction with Perception Encoders.", COMMANDS, arguments)
    return run_command(name, rest)


def run_command(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Args:
        name: One of `COMMANDS`.
        arguments: Those after the name; default: those of the process.

    Raises:
        SystemExit: After `--help`, or with status 2 for arguments that cannot be parsed.
        Exception: A bug, with a note where to report it.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and f"{name} {arguments[0]}" in COMMANDS:
        name, arguments = f"{name} {arguments[0]}", arguments[1:]
    return run_module(module_of(name), f"pe-spatial {name}", arguments)


def run_module(module: ModuleType, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a module that is written like a command; see `run_command`.

    Args:
        module: With `add_arguments` and `run`.
        program: How it is called.
        arguments: Default: those of the process.
    """
    options, parser = parse(program, module, list(sys.argv[1:] if arguments is None else arguments))
    if hasattr(module, "check"):
        module.check(options, parser)
    return execute(module.run, options, getattr(module, "RESUMES", ""))


def choose(program: str, description: str, choices: Mapping[str, str], arguments: list[str]) -> tuple[str, list[str]]:
    """The name that the arguments begin with, and the rest; `--help` and mistakes end the program."""
    width = max(map(len, choices))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in choices.items())
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} NAME ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{description}\n\n{listing}",
        epilog=f"`{program} NAME --help` explains one.",
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help(sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else 2)
    if arguments[0] not in choices:
        parser.exit(2, f"error: {program} has no command {arguments[0]!r}; {suggest(arguments[0], choices)}\n")
    return arguments[0], arguments[1:]


def parse(program: str, module: ModuleType, arguments: list[str]) -> tuple[argparse.Namespace, CommandParser]:
    """The options of a command, and the parser that they came from."""
    subcommand = None
    if not hasattr(module, "add_arguments"):
        summaries = {key: str(function.__doc__).partition("\n")[0] for key, function in module.SUBCOMMANDS.items()}
        subcommand, arguments = choose(program, str(module.__doc__), summaries, arguments)
    parser = parser_of(program, module, subcommand)
    return parser.parse_command(arguments), parser


def parser_of(program: str, module: ModuleType, subcommand: str | None = None) -> CommandParser:
    """The parser of a command; the site's pages of the commands are made from it too.

    Args:
        program: How the command is called, without the subcommand.
        module: Of the command.
        subcommand: One of the module's `SUBCOMMANDS`, if it has these.
    """
    description = str(module.__doc__)
    if subcommand is None:
        add_arguments: Callable[[CommandParser], None] = module.add_arguments
    else:
        program, add_arguments = f"{program} {subcommand}", module.SUBCOMMANDS[subcommand]
        first, _, rest = str(add_arguments.__doc__).partition("\n")
        description = f"{first}\n{dedent(rest)}"
    parser = CommandParser(program, description)
    add_arguments(parser)
    add_shared(parser, "--traceback")
    parser.set_defaults(subcommand=subcommand)
    return parser


def module_of(name: str) -> ModuleType:
    """The module of one of `COMMANDS`."""
    return import_module(f"pe_spatial.commands.{name.replace('-', '_').replace(' ', '_')}")


def execute(run: Callable[[argparse.Namespace], int], options: argparse.Namespace, resumes: str = "") -> int:
    """Run with parsed options and turn what goes wrong into an exit status; a bug is raised with a note.

    Args:
        run: The work; returns the exit status.
        options: With `traceback`, whether mistakes show theirs too, and maybe `allow_import`, packages to trust.
        resumes: How to go on after an interruption.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no valid text
    keep_freed_memory()
    try:
        with (
            _interruptible(),
            plain_warnings(),
            trusting(getattr(options, "allow_import", ())),
            allowing_pixels(getattr(options, "max_pixels", None)),
        ):
            status = run(options)
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print_note(f"\ninterrupted; {resumes}" if resumes else "\ninterrupted")
        return 130
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 128 + signal.SIGPIPE  # as of `cat FILE | head`
        if options.traceback:
            traceback.print_exc()
        print_error(explain(error))
        return 3 if isinstance(error, DivergedError) else 2
    except Exception as error:
        if sys.version_info >= (3, 11):
            error.add_note(BUG)
        else:
            print_note(BUG)
        raise


def explain(error: Exception) -> str:
    """The message of a mistake, with its remedy."""
    if isinstance(error, OSError) and error.strerror:
        from pe_spatial.common.files import is_full_disk

        where = f"{printable(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        remedy = "; free some space on that disk and give the same command again" if is_full_disk(error) else ""
        return f"{where}{error.strerror}{remedy}"
    # str() of a KeyError quotes its message
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    # a loader process puts its traceback before the message
    return message.strip().splitlines()[-1] if "Original Traceback" in message else message


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, which batch systems and `kill` send, interrupt the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:  # a process that was forked from this one ends without a word
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more; it is closed then, so that the exit is quiet."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone
