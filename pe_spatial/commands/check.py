"""Examine the data of a config: detection, segmentation, depth, tracking or alignment.

    python tools/check_dataset.py CONFIG [key=value ...]
    python tools/check_dataset.py CONFIG --samples 500 --output OUT

Loads every sample as a training would and reports what is wrong with files, sizes, labels, boxes and numbering, images
that occur in several of the data sets, and how often each class occurs. OUT/{train,val,test}.png are contact sheets of
samples with their labels drawn in; look at them, for only an eye sees that labels sit beside their objects.

Exit status: 0 nothing wrong (there may be warnings), 1 errors were found, 2 a mistake in the command or the config,
130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.registry import DefaultScope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pe_spatial.common.errors import UserError
from pe_spatial.doctor import Effort, SplitReport, examine, save_sheet
from pe_spatial.training.config import load_config


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file, or its name below configs/")
    parser.add_argument("--output", type=Path, help="for the contact sheets; default: work_dirs/<config>/data_check")
    parser.add_argument("--samples", type=int, help="look at so many of each data set, spread over it (all)")
    parser.add_argument("--tiles", type=int, default=16, help="samples on a contact sheet; 0 draws none (16)")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8), help="that load samples")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config entries to change; values are YAML")
    options = parser.parse_intermixed_args(arguments)
    if options.threads < 1 or options.tiles < 0 or (options.samples is not None and options.samples < 1):
        parser.error("--threads and --samples must be 1 or more, --tiles 0 or more")
    return options


def run(options: argparse.Namespace) -> bool:
    """Examine and report; whether nothing is wrong."""
    config = load_config(options.config, options.overrides)
    output = options.output or Path("work_dirs") / Path(config.filename).stem / "data_check"
    effort = Effort(samples=options.samples, threads=options.threads, tiles=options.tiles)
    columns = (TextColumn("{task.description:<6}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")),
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):

        def track(split: str, total: int, numbers: Iterator[int]) -> Iterator[int]:
            return iter(progress.track(numbers, total=total, description=split))

        reports = examine(config, effort, track)
    for report in reports:
        show(report)
    for number, report in enumerate(reports):
        if report.tiles:
            same = [other for other in reports[:number] if other.split == report.split]
            path = output / f"{report.split}{len(same) + 1 if same else ''}.png"
            save_sheet(path, f"{report.split}: {report.name}, {report.size} samples", report.tiles)
            print(f"drawn: {path}")
    errors = sum(report.findings.count("error") for report in reports)
    warnings = sum(report.findings.count("warning") for report in reports)
    print(f"{errors} kind{'s'[errors == 1 :]} of errors, {warnings} kind{'s'[warnings == 1 :]} of warnings")
    return errors == 0


def show(report: SplitReport) -> None:
    seen = "all looked at" if report.seen == report.size else f"{report.seen} looked at"
    print(f"== {report.split}: {report.name}, {report.size} samples, {seen}" if report.size else f"== {report.split}")
    for line in report.findings.lines():
        print(line)
    for histogram in report.histograms:
        print()
        for line in histogram.lines():
            print(f"  {line}")
    print()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        return 0 if run(options) else 1
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
