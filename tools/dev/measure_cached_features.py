"""How much faster a head trains on cached features than on pictures, and whether it becomes the same head.

    pe-spatial demo --output demo/data --images 360 --image-size 128
    python tools/dev/measure_cached_features.py --config demo/seg_linear_tiny_random.yaml --seeds 3 --output demo/cached

For every seed the recipe is trained on pictures and on cached features, one after the other, each in a process of its
own. `wall_ms` and `cpu_ms` are the medians of the steps after the first ten, each from the end of one to the end of
the next (data, model, hooks); `first` is the main number of the validation at the end. At last the mean over the seeds
and the standard deviation are printed.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from mmengine.hooks import Hook

from pe_spatial.commands.benchmark.measuring import in_own_process, median_ratio, show
from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.reading import read_json

WAYS = ("pictures", "cached")
WARMUP = 10


class StepTimes(Hook):
    """Notes when every step ended, by the clocks of the wall and of the process."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """A step has ended."""
        self.ends.append((time.perf_counter(), time.process_time()))

    def medians(self) -> dict[str, float]:
        """Of the steps after the warm-up, in milliseconds."""
        ends = self.ends[WARMUP:]
        steps = [[1e3 * (b - a) for a, b in zip(*pair, strict=True)] for pair in zip(ends, ends[1:], strict=False)]
        return {name: median(step[i] for step in steps) for i, name in enumerate(("wall_ms", "cpu_ms"))}


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add_shared(parser, "--config", "--output", "overrides", required=("--config", "--output"))
    parser.add_argument("--seeds", type=positive, default=3, metavar="N", help="trainings of each kind")


def run(options: argparse.Namespace) -> int:
    """Train, and print a line for every run, for every way, and for the comparison."""
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        for way in WAYS:
            folder = Path(options.output) / f"{way}_{seed}"
            changes = [*options.overrides, f"randomness.seed={seed}"]
            result = in_own_process(measure, options.config, changes, folder, way)
            show({"seed": seed, "on": way} | result)
            results[way].append(result)
    for way, rows in results.items():
        finals = [row["first"] for row in rows]
        spread = {"deviation": stdev(finals)} if len(finals) > 1 else {}
        steps = {name: median(row[name] for row in rows) for name in ("wall_ms", "cpu_ms")}
        show({"on": way, **steps, "mean": mean(finals), **spread})
    for name in ("wall_ms", "cpu_ms"):
        show({"times": median_ratio(*([row[name] for row in results[way]] for way in reversed(WAYS))), "by": name})
    return 0


def measure(config: str, changes: list[str], folder: Path, way: str) -> dict[str, float]:
    """Train once.

    Args:
        config: Of the recipe.
        changes: Of its entries.
        folder: Of the run; caches lie beside it.
        way: One of `WAYS`.
    """
    from pe_spatial.training.config import load_config
    from pe_spatial.training.launch import train

    settings = load_config(config, changes)
    settings.work_dir = str(folder)
    if way == "cached":
        settings.default_hooks["cache_features"] = {"type": "CachedFeaturesHook"}
    times = StepTimes()
    train(settings, hooks=[times])
    card = read_json(folder / "result.json")
    return {**times.medians(), "first": card["metrics"][card["headline"][0]]}


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
