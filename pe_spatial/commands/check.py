"""Examine a dataset, or the data of a config: detection, segmentation, depth, tracking or alignment.

    pe-spatial check FOLDER
    pe-spatial check --config CONFIG [key=value ...]
    pe-spatial check --config CONFIG --limit 500 --output OUT
    pe-spatial check --config CONFIG --checkpoint work_dirs/NAME     # also: labels that a trained model contradicts

A folder, or a file that describes a dataset, is recognized as in `pe-spatial train TASK --data FOLDER`, and examined
for the usual task of this data.

It loads every sample as a training does, and reports what is wrong with files, sizes, labels, boxes and numbering,
images that occur in several of the datasets, and how often each class occurs. OUT/{train,val,test}.png are contact
sheets of samples with their labels. Look at them: labels that do not fit their objects are only visible there.

With a checkpoint, a trained detector is asked for the objects whose class, box or mask it contradicts most, for
objects that nobody annotated, and for annotations where it sees nothing, in each image and its mirror image. They are
warnings; OUT/label_errors.json lists them, the likeliest first, and OUT/{train,val,test}_label_errors.png show the
first of them. The model may have been trained on the same labels: it follows the many that are right.

Exit status: 0 nothing wrong (there may be warnings), 1 errors were found, 2 a mistake in the command or the config,
130 interrupted.
"""

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pe_spatial.commands.options import CommandParser, add_shared, integer, positive, take_override
from pe_spatial.common.console import print_note
from pe_spatial.common.errors import UserError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.config import Config

    from pe_spatial.doctor import SplitReport


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    parser.add_argument("data", nargs="?", metavar="PATH", help="a dataset: a folder, or the file that describes it")
    files = ["--config", "--output", "--limit", "--max-pixels", "--allow-import", "overrides"]
    add_shared(parser, *files)
    parser.add_argument("--format", metavar="NAME", help="format of the dataset, if it can be read in several ways")
    parser.add_argument("--split", metavar="TRAIN,VAL", help="splits of the dataset (default: by their names)")
    parser.add_argument(
        "--tiles", type=integer(0), default=16, metavar="N", help="samples on a contact sheet; 0 makes none"
    )
    add_shared(parser, "--checkpoint", "--batch-size", "--device")
    threads = min(os.cpu_count() or 1, 8)
    parser.add_argument("--threads", type=positive, default=threads, metavar="N", help="that load samples")
    parser.add_old_spellings({"--samples": "--limit"})


def check(options: argparse.Namespace, parser: CommandParser) -> None:
    """Tell a dataset, which may stand without `--data`, from a config."""
    take_override(options, "data")
    if options.data and options.config is None and not _is_data(Path(options.data)):
        print_note(f"{options.data} is now --config {options.data}")
        options.config, options.data = options.data, None
    if bool(options.config) == bool(options.data):
        parser.error("give either a dataset or --config")


def _is_data(path: Path) -> bool:
    """Whether a path is a dataset rather than a config; a YAML file may be either, and so may a bare name."""
    if path.is_dir() or path.suffix.lower() == ".json":
        return True
    if not path.is_file():
        return not path.suffix and not _is_config(path)
    from pe_spatial.data.formats import recognize

    return bool(recognize(path))


def _is_config(path: Path) -> bool:
    from pe_spatial.training.config_files import find_config

    try:
        return bool(find_config(path))
    except UserError:
        return False


def run(options: argparse.Namespace) -> int:
    """Examine and report; returns 1 if there are errors."""
    from mmengine.registry import DefaultScope

    from pe_spatial.doctor import ExaminationOptions, examine
    from pe_spatial.visualization.sheets import save_sheet

    config = _config(options)
    name = Path(options.data).absolute().stem if options.data else Path(config.filename).stem
    output = options.output or Path("work_dirs") / name / "data_check"
    examination = ExaminationOptions(samples=options.limit, threads=options.threads, tiles=options.tiles)

    model = None
    if options.checkpoint is not None:
        from pe_spatial.commands.label_search import LabelSearch

        model = LabelSearch(options)
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        reports = examine(config, examination)
        if model is not None:
            model.search(reports, examination)
    for report in reports:
        show(report)
    for name, report in zip(sheet_names(reports), reports, strict=True):
        for ending, title, tiles in (
            ("", f"{report.size} samples", report.tiles),
            ("_label_errors", "label errors", report.suspects),
        ):
            if tiles:
                path = output / f"{name}{ending}.png"
                save_sheet(path, f"{report.split}: {report.name}, {title}", tiles)
                print(f"drawn: {path}")
    if model is not None:
        print(f"listed: {model.write(output)}")
    errors = sum(report.findings.count("error") for report in reports)
    warnings = sum(report.findings.count("warning") for report in reports)
    print(f"{errors} kind{'s'[errors == 1 :]} of errors, {warnings} kind{'s'[warnings == 1 :]} of warnings")
    return 1 if errors else 0


def _config(options: argparse.Namespace) -> "Config":
    """The config that is named, or the one of the usual task of a dataset."""
    if options.config is not None:
        from pe_spatial.training.config import load_config
        from pe_spatial.training.config_checks import require_dataset_types

        config = load_config(options.config, options.overrides)
        require_dataset_types(config, "train_dataloader", "val_dataloader", "test_dataloader")
        return config
    from pe_spatial.own.compose import compose
    from pe_spatial.own.data import usual_task
    from pe_spatial.own.request import Request

    task = usual_task(Path(options.data), options.format)
    request = Request(task, options.data, format=options.format, split=options.split, overrides=options.overrides)
    composition = compose(request)
    for line in composition.data:
        print(printable(line))
    return composition.config


def sheet_names(reports: "Sequence[SplitReport]") -> list[str]:
    """A name for every report: its split, with a number where a split has several datasets."""
    before: Counter[str] = Counter()
    names = []
    for report in reports:
        before[report.split] += 1
        names.append(report.split + (str(before[report.split]) if before[report.split] > 1 else ""))
    return names


def show(report: "SplitReport") -> None:
    """Print the findings and histograms of one dataset."""
    seen = "all looked at" if report.seen == report.size else f"{report.seen} looked at"
    print(f"== {report.split}: {report.name}, {report.size} samples, {seen}" if report.size else f"== {report.split}")
    for line in report.findings.lines():
        print(printable(line))
    for histogram in report.histograms:
        if histogram.names:
            print()
        for line in histogram.lines() if histogram.names else ():
            print(printable(f"  {line}"))
    print()
