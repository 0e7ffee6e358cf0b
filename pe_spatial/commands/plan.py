"""Plan a training: which batch, image size, precision and tuning fit into a memory, and what they take.

    pe-spatial plan --config CONFIG --memory 12gb [key=value ...]
    pe-spatial plan --config CONFIG --memory 12gb --device cuda        # for a GPU of another machine
    pe-spatial plan --config CONFIG --memory 12gb --cards work_dirs    # corrected by the result cards of runs

Without --memory, the free memory is used. The command measures small steps of the config's model with random images,
and extrapolates to its size. Every row is a way to train with the same effective batch; the fastest come first. The
chosen one, marked with *, changes the result least: it keeps the trained part, the image size and the precision if
possible, in this order. --overrides prints only its key=value, for `train … $(…)`. --picture draws all ways as bars.
Memory and time are estimates; see docs/planner.md.

Exit status: 0 something fits, 2 nothing fits (the smallest is named), or a mistake in the command or the config.
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared

if TYPE_CHECKING:
    from pe_spatial.training.planner import Plan, Row


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add_shared(parser, "--config", "--memory", "--device", "--allow-import", "overrides", required=["--config"])
    parser.set_defaults(memory="auto")
    parser.add_argument(
        "--cards", metavar="FOLDER", type=Path, help="folder of runs; their result cards correct the estimates"
    )
    parser.add_argument("--picture", metavar="FILE", type=Path, help="PNG of what every way needs")
    parser.add_argument(
        "--overrides", dest="only_overrides", action="store_true", help="print only the overrides of the chosen row"
    )


def run(options: argparse.Namespace) -> int:
    """Print the table, and the overrides of the chosen row."""
    from pe_spatial.common.memory import parse_memory
    from pe_spatial.training.config import load_config
    from pe_spatial.training.planner import plan

    memory = parse_memory(options.memory)
    config = load_config(options.config, options.overrides)
    found = plan(config, memory, options.device, options.cards)
    chosen = found.chosen if any(row.fits for row in found.rows) else None
    if options.picture is not None:
        draw_plan(options.picture, found, chosen)
    if options.only_overrides:
        print(" ".join([*options.overrides, *found.chosen.overrides]))
        return 0
    for line in (*head_lines(found), "", *table_lines(found, chosen), ""):
        print(line)
    arguments = ["pe-spatial", "train", "--config", options.config, *options.overrides, *found.chosen.overrides]
    print(shlex.join(arguments))
    return 0


def head_lines(found: "Plan") -> list[str]:
    """What the plan is for, and what it rests on."""
    from pe_spatial.common.memory import gigabytes

    lines = [f"{gigabytes(found.memory)} of {found.target.name}; estimates from small steps, see docs/planner.md"]
    if found.target.on_cuda and not found.target.is_here:
        lines.append("time is not timed here; memory is measured on the CPU, with usual constants of a GPU")
    if found.learned is not None:
        lines.append(
            f"corrected by {found.learned.used} result cards; {found.learned.left_out} say nothing about this device"
        )
    if found.fixed_size:
        lines.append(f"no other image size: {found.fixed_size}")
    fitting = sum(row.fits for row in found.rows)
    return [
        *lines,
        f"{fitting} of {len(found.rows)} ways fit; each with the batch that is fastest among those that fit",
    ]


def table_lines(found: "Plan", chosen: "Row | None") -> list[str]:
    """The rows that fit, aligned; all of them where none does."""
    shown = [row for row in found.rows if row.fits] or list(found.rows)
    heads = ("", "batch", "accumulated", "image", "checkpointing", "precision", "tuning", "needs", "s/image")
    cells = [heads, *(_cells(row, row is chosen) for row in shown)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def draw_plan(path: Path, found: "Plan", chosen: "Row | None") -> None:
    """A bar for each way: what it needs, and how fast it is."""
    from pe_spatial.common.memory import gigabytes
    from pe_spatial.visualization.charts import Bar, save_bars

    bars = []
    for row in found.rows:
        _, batch, accumulation, size, again, precision, tuning, need, seconds = _cells(row, row is chosen)
        name = f"{batch} x {accumulation}, {size}, {precision}, {tuning}{', recomputed' if again == 'yes' else ''}"
        text = need if row.seconds is None else f"{need}, {seconds} s/image"
        bars.append(Bar(name, row.need / 1e9, text, row is chosen))
    title = f"Ways to train on {found.target.name} with {gigabytes(found.memory)}"
    limit = (found.memory / 1e9, f"{gigabytes(found.memory)}; bold: the chosen way; gray: does not fit")
    save_bars(path, title, "needed memory in GB", bars, limit)


def _cells(row: "Row", is_chosen: bool) -> tuple[str, ...]:
    from pe_spatial.common.memory import gigabytes

    height, width = row.image_size
    return (
        "*" if is_chosen else "",
        str(row.batch),
        str(row.accumulation),
        f"{height}x{width}",
        "yes" if row.variation.checkpointing else "no",
        row.variation.precision,
        row.variation.tuning,
        gigabytes(row.need),
        "not timed here" if row.seconds is None else f"{row.seconds:.3g}",
    )
