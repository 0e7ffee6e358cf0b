"""All speeds in one table: `pe-spatial benchmark all`."""

import argparse
import importlib.metadata
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.registry import DefaultScope

from pe_spatial import __version__
from pe_spatial.commands.benchmark import SUBCOMMANDS
from pe_spatial.commands.benchmark.comparisons import COMPARISONS, Comparison, Figure
from pe_spatial.commands.benchmark.document import write_between
from pe_spatial.commands.benchmark.features import draw_pictures
from pe_spatial.commands.options import CommandParser
from pe_spatial.common.devices import device_name
from pe_spatial.common.errors import OptionError, UnknownName, UserError, suggest

BEGIN = "<!-- speed: what follows is written by `pe-spatial benchmark all --document docs/speed.md` -->"
END = "<!-- speed: end -->"
_PARTNERS = ("torch", "torchvision", "timm", "onedl-mmsegmentation", "pycocotools", "open_clip_torch")
_PICTURES = 4  # that are drawn where none are given

Measured = dict[str, list[Figure] | str]  # the figures of every repetition, or why there are none, by the row


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all comparisons, repetition by repetition; show, and where asked for write, their table."""
    chosen = choose(options)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        pictures = options.input or str(draw_pictures(Path(folder) / "pictures", _PICTURES))
        measured = measure_all(chosen, options, pictures)
    load.append(os.getloadavg()[0])
    facts = machine(options, load)
    table = markdown(measured, facts) + "\nThe sizes were tiny (--quick): do not quote them as speeds." * options.quick
    print(f"\n{table}")
    if options.document:
        write_between(options.document, BEGIN, END, table)
    rows = [
        {"row": row, "not_measured": found} if isinstance(found, str) else {"row": row, **summary(found)}
        for row, found in measured.items()
    ]
    return {"rows": rows, "machine": facts}


def choose(options: argparse.Namespace) -> list[Comparison]:
    """The comparisons that are asked for.

    Raises:
        OptionError: A document is asked for with tiny sizes.
        UnknownName: There is no such comparison.
    """
    if options.quick and options.document:
        raise OptionError(
            f"--quick measures tiny sizes, which must not be written to {options.document}; leave one out"
        )
    known = [entry.name for entry in COMPARISONS if not options.quick or entry.quick is not None]
    for name in options.only or ():
        if name not in known:
            raise UnknownName(f"--only {name}: there is no such comparison; {suggest(name, known)}")
    return [entry for entry in COMPARISONS if entry.name in (options.only or known)]


# --- measuring --------------------------------------------------------------------------------------------------------
def measure_all(chosen: Sequence[Comparison], options: argparse.Namespace, pictures: str) -> Measured:
    """Every comparison once in each repetition, in turning order, so that drift hits all alike."""
    measured: Measured = {}
    for entry in chosen:  # the order of the table
        measured.update({row: [] for row in entry.rows})
    for number in range(1, options.repeats + 1):
        for entry in chosen[:: 1 if number % 2 else -1]:
            if any(isinstance(measured[row], str) for row in entry.rows):
                continue
            print(f"\n{entry.name}, {number} of {options.repeats}", flush=True)
            found = measure(entry, options, pictures)
            for row in entry.rows:
                figures = measured[row]
                if isinstance(found, str) or isinstance(figures, str):
                    measured[row] = str(found)
                else:
                    figures.append(found[row])
    return measured


def measure(entry: Comparison, options: argparse.Namespace, pictures: str) -> dict[str, Figure] | str:
    """The figures of one run by their rows, or why they could not be measured."""
    text = str(entry.quick if options.quick else entry.arguments)
    parser = CommandParser(f"pe-spatial benchmark {entry.subcommand}", "")
    SUBCOMMANDS[entry.subcommand](parser)
    words = [pictures if word == "PICTURES" else word for word in text.split()]
    chosen = parser.parse_command(words)
    chosen.device, chosen.threads = options.device, options.threads
    try:
        with keeping_scope():
            report = import_module(f"pe_spatial.commands.benchmark.{entry.subcommand}").run(chosen)
            return dict(zip(entry.rows, entry.figures(report), strict=True))
    except (UserError, ImportError) as error:  # of a partner that is not installed, or knows no such model
        return str(error).splitlines()[0]


@contextmanager
def keeping_scope() -> Iterator[None]:
    """Undo what mmseg's inferencer does for good: it makes its own registry the default of the process."""
    before = dict(DefaultScope._instance_dict)
    try:
        yield
    finally:
        DefaultScope._instance_dict.clear()
        DefaultScope._instance_dict.update(before)


# --- the table --------------------------------------------------------------------------------------------------------
def summary(figures: Sequence[Figure]) -> dict[str, Any]:
    """The median ratio of all repetitions with the smallest and the largest one, and the median of ours."""
    ratios = [figure.ratio for figure in figures]
    ours = statistics.median(figure.ours for figure in figures)
    spread = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {"partner": figures[0].partner, **spread, "ours": ours, "unit": figures[0].unit, "ratios": ratios}


def markdown(measured: Measured, facts: Mapping[str, Any]) -> str:
    """The table, and below it with what and on what it was measured."""
    rows = ["| what | against | times as fast | from … to | ours |", "|---|---|---|---|---|"]
    for row, found in measured.items():
        if isinstance(found, str):
            rows.append(f"| {row} | not measured: {found} | | | |")
            continue
        line = summary(found)
        spread = f"{line['lowest']:.3g} … {line['highest']:.3g}"
        rows.append(
            f"| {row} | {line['partner']} | **{line['ratio']:.3g}** | {spread} | {line['ours']:.3g} {line['unit']} |"
        )
    told = ", ".join(f"{name} {value}".strip() for name, value in facts.items())
    return "\n".join([*rows, "", f"Measured by `pe-spatial benchmark all`: {told}."])


def machine(options: argparse.Namespace, load: Sequence[float]) -> dict[str, Any]:
    """When, with what and on what it was measured; versions of what is not installed are left out."""
    facts: dict[str, Any] = {date.today().isoformat(): "", "pe_spatial": __version__}
    for name in _PARTNERS:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts[device_name(options.device)] = ""
    if options.device != "cpu":
        facts[device_name("cpu")] = ""
    facts |= {"threads": options.threads, "repetitions": options.repeats}
    return facts | {"load of the machine before and after": " and ".join(f"{number:.1f}" for number in load)}
