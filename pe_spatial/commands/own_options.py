"""The options of a training on data of one's own; `pe_spatial.own.request.Request` and docs/knobs.md say more."""

import argparse
from dataclasses import fields

from pe_spatial.commands.options import SHARED, CommandParser, integer, number_in, positive
from pe_spatial.own.models import DEFAULT_SIZE, SIZES, TASKS, TINY
from pe_spatial.own.request import EPOCHS, LOGGERS, PRECISIONS, TUNINGS, Request

_FAMILIES = "; ".join(f"{task}: {', '.join(families)}" for task, families in TASKS.items())
# arguments of `Request` that trainings of a config have too
_OF_ALL_TRAININGS = {"task", "output", "overrides", "memory"}


def add_own_options(parser: CommandParser) -> None:
    """Add them; None means that an option is not given."""
    group = parser.add_argument_group("training on your own data (docs/knobs.md)")
    add = group.add_argument
    add("--data", metavar="PATH", help="a folder, or the file that describes the dataset")
    add(
        "--model",
        metavar="NAME",
        help=f"FAMILY-SIZE; {_FAMILIES}; sizes: {', '.join((TINY, *SIZES))} (default: the task's first, "
        f"{DEFAULT_SIZE})",
    )
    add("--epochs", metavar="N", type=float, help=f"passes over the training pictures (default: {EPOCHS})")
    add("--iterations", metavar="N", type=positive, help="batches, instead of --epochs")
    add("--tune", choices=TUNINGS, help="what of the encoder is trained (default: the recipe's)")
    add(
        "--encoder",
        metavar="NAME",
        help="another encoder, by its name in timm (docs/foreign_encoders.md)",
    )
    add("--weights", **SHARED["--weights"])
    add(
        "--teacher",
        metavar="NAME|FILE",
        action="append",
        help="teacher of an alignment; repeat it for several; one of timm as NAME=FILE (default: the initial student)",
    )
    add(
        "--trial",
        metavar="KIND=PATH",
        help="of an alignment: what the student is tried on as it trains, matches=PHOTOS, tracking=DAVIS, "
        "neighbors=LABELS or linear=LABELS",
    )
    add("--encoder-from", metavar="RUN", help="train the head on the encoder of this run, so that both share a pass")
    add("--image-size", **SHARED["--image-size"])
    add("--batch-size", metavar="N", type=positive, help="pictures per batch (default: the recipe's)")
    add("--accumulate", metavar="N", type=positive, help="batches per optimizer step (default: 1)")
    add("--lr", metavar="X", type=number_in(0), help="learning rate (default: the recipe's, scaled with the batch)")
    add("--weight-decay", metavar="X", type=number_in(0), help="weight decay of the optimizer (default: the recipe's)")
    add("--clip", metavar="X", type=number_in(0), help="largest norm of a gradient; 0: no clipping")
    add("--precision", choices=PRECISIONS, help="precision of the forward pass (default: bf16 on CUDA, fp32 on a CPU)")
    add("--ema", action="store_true", default=None, help="validate and save averaged weights")
    add("--early-stopping", metavar="N", type=positive, help="end after N validations without a new best")
    add("--workers", metavar="N", type=integer(0), help="processes that load pictures (default: up to 4)")
    add("--seed", metavar="N", type=integer(0), help="seed of the run and of the validation split (default: 0)")
    add("--logger", choices=LOGGERS, help="where curves go (default: tensorboard)")
    add("--format", metavar="NAME", help="format of the data, if it can be read in several ways")
    add("--split", metavar="TRAIN,VAL", help="splits of the data (default: by their names)")
    add("--print-config", action="store_true", default=None, help="print the resolved config and exit")


def own_option_names() -> list[str]:
    """Arguments of `Request` that are options here."""
    return [field.name for field in fields(Request) if field.name not in _OF_ALL_TRAININGS]


def given_options(options: argparse.Namespace) -> list[str]:
    """The options of this module that are given, as the user writes them."""
    names = (*own_option_names(), "print_config")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


def request_of(options: argparse.Namespace) -> Request:
    """The request that the options are.

    Raises:
        OptionError: A value out of its range.
    """
    given = {name: getattr(options, name) for name in own_option_names()}
    given = {name: value for name, value in given.items() if value is not None}
    return Request(options.task, output=options.output, overrides=options.overrides, memory=options.memory, **given)
