"""Serve a model: bytes of a picture in, JSON or PNG out.

    python -m service --checkpoint runs/detector
    PE_SERVE_CHECKPOINT=runs/detector PE_SERVE_PORT=9000 python -m service

Every option is also an environment variable: PE_SERVE_ and its name, such as PE_SERVE_MAX_BATCH. The command line goes
before the environment. All are checked, and the model is loaded and tried, before the port is opened.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pe_spatial.commands.options import CommandParser, add_shared, integer, number_in, positive, resolve_precision
from pe_spatial.common.errors import UserError, suggest
from pe_spatial.common.memory import parse_memory

PREFIX = "PE_SERVE_"


@dataclass(frozen=True)
class Settings:
    """What the service allows.

    Attributes:
        max_batch: Pictures that go through the model at once.
        max_delay: Milliseconds that a picture waits for others.
        queue: Requests that are inside at a time, from their first byte to their answer.
        max_upload: Bytes of a picture.
        max_pixels: Of a picture.
        waiting_pixels: Of all pictures inside; a single one may always enter.
        threshold: Instances that score less are left out where a request says nothing.
        readers: Threads that decode, prepare and draw pictures.
        threads: CPU threads of the model.
        upload_seconds: In which a picture has to arrive.
    """

    max_batch: int = 8
    max_delay: float = 5.0
    queue: int = 32
    max_upload: float = 20e6
    max_pixels: int = 40_000_000
    waiting_pixels: int = 120_000_000
    threshold: float = 0.5
    readers: int = 2
    threads: int = 1
    upload_seconds: float = 30.0


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add = parser.add_argument
    shared = ("--checkpoint", "--device", "--engine", "--precision", "--allow-import", "overrides")
    add_shared(parser, *shared, required=["--checkpoint"])
    add("--host", default="127.0.0.1", metavar="NAME", help="address to listen at; 0.0.0.0: all")
    add("--port", type=number_in(1, 65535, kind=int), default=8000, metavar="N", help="to listen at")
    add("--max-batch", type=positive, default=8, metavar="N", help="pictures that go through the model at once")
    add("--max-delay", type=number_in(0, 1000), default=5, metavar="MS", help="that a picture waits for others")
    add("--queue", type=positive, default=32, metavar="N", help="requests inside; further ones are answered 503")
    add("--max-upload", type=_amount, default=20e6, metavar="SIZE", help="bytes of a picture (default: 20mb)")
    add("--max-pixels", type=positive, default=40_000_000, metavar="N", help="of a picture")
    add("--waiting-pixels", type=positive, default=120_000_000, metavar="N", help="of all pictures inside")
    add("--threshold", type=number_in(0, 1), default=0.5, metavar="SCORE", help="lowest score of instances")
    add("--readers", type=positive, default=2, metavar="N", help="threads that decode, prepare and draw pictures")
    add("--threads", type=positive, metavar="N", help="CPU threads of the model; default: the cores that readers leave")
    add("--upload-seconds", type=number_in(0.1), default=30, metavar="S", help="in which a picture has to arrive")
    add(
        "--stop-seconds", type=positive, default=30, metavar="S", help="for the answers that are due when it is stopped"
    )
    add("--connections", type=integer(2), default=1000, metavar="N", help="that are open at a time")
    take_environment(parser, os.environ)


def take_environment(parser: CommandParser, environment: Mapping[str, str]) -> None:
    """Make environment variables the defaults of the options.

    Ends the program with status 2 for a value that the option would not take, and for a name that is no option.
    """
    actions = {PREFIX + action.dest.upper(): action for action in parser._actions if action.option_strings}
    for name, text in environment.items():
        if not name.startswith(PREFIX):
            continue
        if name not in actions:
            parser.error(f"there is no environment variable {name}; {suggest(name, actions)}")
        action = actions[name]
        try:
            value = action.type(text) if callable(action.type) else text
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"the environment variable {name}: {error}")
        if action.choices is not None and value not in action.choices:
            parser.error(f"the environment variable {name}: {text!r} is not one of {', '.join(action.choices)}")
        action.default = text.split(",") if action.dest == "allow_import" else value
        action.required = False


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Refuse limits that contradict each other."""
    if options.max_batch > options.queue:
        parser.error(f"--max-batch {options.max_batch} is more than --queue {options.queue} lets in; lower it")
    if options.waiting_pixels < options.max_pixels:
        parser.error(
            f"--waiting-pixels {options.waiting_pixels} of all pictures are less than --max-pixels "
            f"{options.max_pixels} of one; raise it"
        )


def run(options: argparse.Namespace) -> int:
    """Load the model and serve it until the process is asked to stop; returns the exit status."""
    from pe_spatial.common.devices import available_cores
    from pe_spatial.inference.tasks import open_predictor
    from pe_spatial.training.checkpoint import resolve_checkpoint
    from service.app import create_app, serve

    # threads that wait for each other in the network spin; with more of them than cores, all is many times slower
    options.threads = options.threads or max(available_cores() - options.readers, 1)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # what the engines of exported files go by
    checkpoint = resolve_checkpoint(options.checkpoint)
    resolve_precision(options, checkpoint)
    given = (options.device, settings.max_batch, options.overrides, options.engine, options.precision)
    predictor = open_predictor(checkpoint, *given)
    return serve(create_app(predictor, settings), options)


def _amount(text: str) -> float:
    try:
        amount = parse_memory(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).replace("memory ", "")) from None
    if amount is None:
        raise argparse.ArgumentTypeError("auto is no size of an upload; write such as 20mb")
    return amount
