"""Evaluate every layer of a frozen encoder, from one pass per image: which layer is best for a task, and by how much.

    pe-spatial sweep --config tracking/pe448_pe_spatial_b16_davis2017 --output OUT
    pe-spatial sweep --config depth/linear_pe_spatial_b16_nyu_38k --output OUT
    pe-spatial sweep --config segmentation/linear_pe_spatial_b16_ade20k_40k --output OUT
    pe-spatial sweep --config ... --output OUT --layers 5,8,11 test_dataloader.dataset.data_root=DAVIS
    pe-spatial sweep --config tracking/dinov3_pe_spatial_b16_davis2017 --output OUT --layers -1 \
        --vary model.backbone.rope=extrapolate,interpolate --vary model.resizing.short_side=480,960,1440

The last command compares extrapolated with interpolated rotary positions at sizes above those of pretraining: --vary
repeats the sweep for every combination of values. OUT/table.md and OUT/table.csv have the numbers, OUT/plot.png shows
them. After an interruption, run the same command again to continue with the next combination.

Tracking needs no training. For depth and segmentation, the config's probe is trained on every layer, all in one run, in
OUT/runs; it resumes like any training.

A task takes part with a module `<task>/layer_sweep.py` of a package that the config imports. Its `METRIC` is the
column that is plotted, `UNIT` its unit, `HIGHER_IS_BETTER` says which end of it is good, and
`evaluate_layers(config, layers, device, advance)` returns {layer: {column: value}}.

Exit status: 0 done, 2 a mistake in the command or the files, 130 interrupted (finished combinations stay).
"""

import argparse
import csv
import io
import itertools
import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pe_spatial.commands.options import CommandParser, add_shared, encoder_weights
from pe_spatial.common.console import progress
from pe_spatial.common.errors import ConfigError, UserError

if TYPE_CHECKING:
    from mmengine.config import Config

RESUMES = "run the same command again to continue with the next combination"
Row = dict[str, Any]


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this command."""
    add_shared(parser, "--config", "--output", required=["--config", "--output"])
    add_shared(parser, "--device", "--layers", "--weights", "--allow-import", "overrides")
    add = parser.add_argument
    add("--vary", action="append", default=[], type=parse_variation, metavar="KEY=A,B", help="repeat for these values")


def run(options: argparse.Namespace) -> int:
    """Evaluate every combination, then write the table and the plot."""
    options.overrides += encoder_weights(options)
    task, rows = sweep(options)
    write_table(options.output, rows)
    plot(options.output / "plot.png", rows, task, [values[0][0] for values in options.vary])
    print((options.output / "table.md").read_text())
    return 0


def parse_variation(text: str) -> list[tuple[str, str]]:
    """The key with each of the values of `KEY=A,B`."""
    key, separator, values = text.partition("=")
    if not separator or not values:
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=A,B with a key of the config and its values")
    return [(key, value) for value in values.split(",")]


def sweep(options: argparse.Namespace) -> tuple[ModuleType, list[Row]]:
    """Evaluate every combination that is not yet on disk; returns the task's module and all rows."""
    from pe_spatial.common.files import write_json
    from pe_spatial.training.config import load_config
    from pe_spatial.training.config_checks import require_dataset_types

    settings = [dict(pairs) for pairs in itertools.product(*options.vary)]
    plan = {"config": options.config, "overrides": options.overrides, "layers": options.layers}
    finished = read_finished(options.output, plan)
    task = None
    for setting in settings:
        config = load_config(options.config, [*options.overrides, *(f"{k}={v}" for k, v in setting.items())])
        require_dataset_types(config, "train_dataloader", "val_dataloader", "test_dataloader")
        task = find_task(config)
        name = json.dumps(setting)
        if name not in finished:
            finished[name] = evaluate(task, config, options, setting)
            write_json(options.output / "sweep.json", {**plan, "results": finished})
    assert task is not None
    return task, [row for setting in settings for row in finished[json.dumps(setting)]]


def read_finished(output: Path, plan: dict[str, Any]) -> dict[str, list[Row]]:
    """Rows of the combinations that an earlier run finished.

    Raises:
        UserError: the folder holds something else, or another sweep.
    """
    from pe_spatial.common.reading import read_json

    path = output / "sweep.json"
    if path.is_file():
        stored = read_json(path, {"results": dict})
        results: dict[str, list[Row]] = stored.pop("results")
        if not all(isinstance(rows, list) and all(isinstance(row, dict) for row in rows) for rows in results.values()):
            raise UserError(f"{path} is damaged: its results are not lists of rows; delete it to start again")
        if stored != plan:
            raise UserError(
                f"{output} contains another sweep ({stored}); choose another --output, or delete that folder"
            )
        return results
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not the folder of a sweep; choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    return {}


def find_task(config: "Config") -> ModuleType:
    """The module `layer_sweep` of the task that a config belongs to."""
    names = [str(name) for name in (config.get("custom_imports") or {}).get("imports", [])]
    for name in names:
        if find_spec(f"{name}.layer_sweep"):
            return import_module(f"{name}.layer_sweep")
    raise ConfigError(
        f"none of the packages that the config imports ({names}) has a module `layer_sweep` to sweep with"
    )


def evaluate(task: ModuleType, config: "Config", options: argparse.Namespace, setting: dict[str, str]) -> list[Row]:
    """One combination: a row per layer."""
    from pe_spatial.backbones.contract import sketch
    from pe_spatial.backbones.vit import resolve_blocks
    from pe_spatial.common.devices import choose_device

    depth = sketch(config.model.backbone).depth
    layers = sorted(set(resolve_blocks(range(depth) if options.layers in (None, "all") else options.layers, depth)))
    changes = [f"{key}={value}" for key, value in setting.items()]
    config.work_dir = str(options.output / "runs" / ("_".join(changes) or "all"))
    prefix = " ".join(changes) or "layers"
    with progress(prefix) as bar:

        def advance(text: str) -> None:
            bar.advance(description=f"{prefix} {text}")

        results = task.evaluate_layers(config, layers, str(choose_device(options.device)), advance)
    return [{**setting, "layer": layer, **values} for layer, values in results.items()]


def write_table(folder: Path, rows: list[Row]) -> None:
    """The rows as Markdown and as CSV."""
    from pe_spatial.common.files import write_text

    columns = list(rows[0])
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "table.csv", buffer.getvalue())
    lines = ["| " + " | ".join(column.rpartition(".")[2] for column in columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    write_text(folder / "table.md", "\n".join(lines) + "\n")


def plot(path: Path, rows: list[Row], task: ModuleType, keys: list[str]) -> None:
    """The metric over the layers, a line per combination; the best layer of each is marked."""
    from pe_spatial.visualization.charts import Curve, Panel, save_curves

    metric, choose = task.METRIC, max if task.HIGHER_IS_BETTER else min
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{key.rpartition('.')[2]} {row[key]}" for key in keys), []).append(row)
    curves = []
    for label, group in groups.items():
        values = [float(row[metric]) for row in group]
        curves.append(Curve(label, [row["layer"] for row in group], values, values.index(choose(values))))
    direction = "higher" if task.HIGHER_IS_BETTER else "lower"
    unit = f"{metric} ({task.UNIT}), {direction} is better"
    panel = Panel("The best layer is circled", curves, unit, steps="layer, counted from 0")
    save_curves(path, "", [panel], (8, 4.5))
