"""How long a checkpoint takes to open, beside reading its file.

    python tools/dev/measure_opening.py --config deta_pe_spatial_g_coco_12ep_1728px

Writes a checkpoint of the recipe with random weights (7.5 GB for this one), or takes the one of `--checkpoint`. A line
says seconds by the clock, first for a file that the system has just forgotten, then for one in its memory:

* `read`: all bytes of the file, in blocks of a megabyte;
* `open`: `Predictor(file)`, which also checks the file's checksums and that its weights are finite numbers;
* `times`: how many readings that is; `above`: the memory in GB above what the process held before, the mapped file
  included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS

from pe_spatial.commands.benchmark.measuring import forget_peak, in_own_process, show
from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module
from pe_spatial.common.devices import device_name, peak_memory
from pe_spatial.common.initialization import SkipInitialization
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import resolve_checkpoint, save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import drop_pretrained, load_config

PACKAGES = ("pe_spatial.detection", "pe_spatial.segmentation", "pe_spatial.depth")
_BLOCK = 2**20


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="a file or the folder of a run")
    source.add_argument("--config", metavar="NAME", help="a recipe")
    parser.add_argument("--classes", type=int, default=80, metavar="N", help="that the recipe has (default: 80)")


def run(options: argparse.Namespace) -> int:
    """Print the machine and a line for each state of the file."""
    with tempfile.TemporaryDirectory() as folder:
        if options.checkpoint is None:
            path = Path(folder) / "model.pth"
            write_random(options.config, options.classes, path)
        else:
            path = resolve_checkpoint(options.checkpoint)
        print(f"{device_name('cpu')}, {torch.get_num_threads()} threads, {path.stat().st_size / 1e9:.2f} GB")
        for is_new in (True, False):
            read = in_own_process(read_file, path, is_new)
            opened, above = in_own_process(open_file, path, is_new)
            state = "forgotten" if is_new else "in memory"
            show({"file": state, "read": read, "open": opened, "times": opened / read, "above": above})
    return 0


def write_random(name: str, classes: int, path: Path) -> None:
    """A checkpoint of a recipe whose weights are small random numbers."""
    config = load_config(name)
    drop_pretrained(config.model)
    if config.get("data_preprocessor") is not None:
        config.model.setdefault("data_preprocessor", config.data_preprocessor)
    with SkipInitialization():
        model = MODELS.build(config.model)
    with torch.no_grad():
        for weights in model.parameters():
            weights.uniform_(-0.02, 0.02)
    names = tuple(f"class {number}" for number in range(classes))
    described: dict[str, Any] = describe(config.to_dict(), {"classes": names})
    save_checkpoint({"state_dict": model.state_dict(), "pe_spatial": described}, path)


def forget(path: Path) -> None:
    """Ask the system to keep no page of a file."""
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_file(path: Path, is_new: bool) -> float:
    """Seconds to read all bytes of a file."""
    if is_new:
        forget(path)
    block = bytearray(_BLOCK)
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass
    return time.perf_counter() - started


def open_file(path: Path, is_new: bool) -> tuple[float, float]:
    """Seconds and GB that a `Predictor` of a file takes; the packages of the tasks are imported before."""
    for package in PACKAGES:
        import_module(package)
    if is_new:
        forget(path)
    before = forget_peak("cpu")
    started = time.perf_counter()
    Predictor(path, "cpu")
    return time.perf_counter() - started, peak_memory("cpu") - before


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
