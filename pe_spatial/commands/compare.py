"""Compare the results of several runs.

    pe-spatial compare RUN RUN ...
    pe-spatial compare RUN RUN ... --output OUT

It shows the keys in which the configs differ, and the numbers of all runs and of every class; the best of each row
is marked (*). The numbers are those of the best checkpoint of a run, or else of its last validation. A RUN may also be
the folder `evaluation` of a run.

OUT/comparison.md has all tables, and OUT/curves.png the curves over each other. Default: `comparison` beside the first
run.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.errors import printable

if TYPE_CHECKING:
    from pe_spatial.training.comparison import Comparison, Table

_SHOWN = 20  # classes in the terminal


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders of runs or of evaluations")
    add_shared(parser, "--output")


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """There is something to compare."""
    if len(options.runs) < 2:
        parser.error(f"{options.runs[0]} alone cannot be compared; give two runs or more")


def run(options: argparse.Namespace) -> int:
    """Compare."""
    from pe_spatial.common.files import write_text
    from pe_spatial.training.comparison import Comparison, read_runs

    comparison = Comparison(read_runs(options.runs))
    folder = options.output or options.runs[0].resolve().parent / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    has_curves = comparison.draw(folder / "curves.png")
    write_text(folder / "comparison.md", markdown(comparison, has_curves))
    for note in comparison.notes():
        print(printable(note))
    for table in (comparison.settings(), comparison.metrics()):
        show(table, len(table.rows))
    for table in comparison.classes():
        show(table, _SHOWN)
    print(f"\nwritten: {folder / 'comparison.md'}{', curves.png' if has_curves else ''}")
    return 0


def show(table: "Table", most: int) -> None:
    """Print a table, cut after so many rows."""
    print(f"\n{printable(table.title)}")
    if not table.rows:
        print("  no differences" if table.title == "Config" else "  none")
        return
    cells = [[printable(cell) for cell in table.head]]
    for number, line in enumerate(table.rows[:most]):
        best = table.best[number] if table.best else ()
        cells.append([printable(cell) + ("*" if place - 1 in best else " ") for place, cell in enumerate(line)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if len(table.rows) > most:
        print(f"  and {len(table.rows) - most} more in comparison.md")


def markdown(comparison: "Comparison", has_curves: bool) -> str:
    """All tables as a page; the best of each row is bold."""
    from pe_spatial.training import result_page as page

    text = "# Comparison\n\n" + "".join(f"* {printable(note)}\n" for note in comparison.notes())
    text += "\n![curves over each other](curves.png)\n" if has_curves else ""
    for table in (comparison.metrics(), *comparison.classes(), comparison.settings()):
        rows = [
            [
                f"**{cell}**" if table.best and place - 1 in table.best[number] else cell
                for place, cell in enumerate(line)
            ]
            for number, line in enumerate(table.rows)
        ]
        text += f"\n## {printable(table.title)}\n\n{page.table(table.head, rows) if rows else 'No differences.'}"
    return text + "\n"
