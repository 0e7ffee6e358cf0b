"""Where the time and the memory of a large photograph go: its decoding, the network, and all else of `predict`.

    pe-spatial demo --output demo/data --images 360 --image-size 128
    python tools/train_net.py --config demo/mask_rcnn_tiny_shapes.yaml
    python tools/dev/measure_large_photographs.py --checkpoint instances=work_dirs/mask_rcnn_tiny_shapes

Without `--input` the photograph is synthetic: a scene of the demo, enlarged to a square and grained, as a JPEG. Every
model runs in a process of its own, and first for a small picture, which loads what is loaded once. A line of each says,
as the median of the rounds, seconds of the processor:

* `decode`: to read the file, the unit of the others;
* `network`: in the modules of the model;
* `predict`: all else of a `Predictor` for the file, the decoding included;
* `files`: the same of `pe-spatial predict --no-pictures`, which also writes the files of the results;
* `pictures`: the same of `pe-spatial predict`, which also draws.

How many decodings these are is in `times`. `wall` is seconds by the clock of the `Predictor`, and `above` the peak of
the command's memory in GB above what the process held before, without the picture, in a round of its own before the
others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from pe_spatial.commands import predict as command
from pe_spatial.commands.benchmark.measuring import forget_peak, in_own_process, show
from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.commands.predict_models import find_models, open_models
from pe_spatial.commands.shell import parse, run_module
from pe_spatial.common.devices import device_name, peak_memory
from pe_spatial.common.errors import UserError
from pe_spatial.common.names import output_stems
from pe_spatial.common.pictures import read_image, save_image
from pe_spatial.common.sources import resolve_sources
from pe_spatial.demo.scenes import draw_scene
from pe_spatial.inference.predictor import Predictor

SMALL = 160  # pixels of the picture that comes before


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    parser.add_argument("--checkpoint", metavar="NAME=PATH", type=command.named_path, action="append", required=True)
    parser.add_argument("--rounds", type=positive, default=3, metavar="N", help="of which the median is taken")
    parser.add_argument("--input", type=Path, help="a photograph; default: a synthetic one")
    add_shared(parser, "--image-size")
    parser.set_defaults(image_size=6000)


def run(options: argparse.Namespace) -> int:
    """Print the machine, the photograph, and a line for each checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        photograph = options.input or synthetic_photograph(Path(folder) / "photograph.jpg", options.image_size)
        height, width = read_image(photograph).shape[-2:]
        size = photograph.stat().st_size
        print(f"{device_name('cpu')}, {torch.get_num_threads()} threads")
        print(f"{photograph.name}: {height} x {width} pixels (H x W), {size / 1e6:.1f} MB")
        for name, path in options.checkpoint:
            place = Path(folder) / str(name)
            figures = in_own_process(measure, path, photograph, place, options.rounds)
            show({"model": name or path.stem} | figures)
    return 0


def synthetic_photograph(path: Path, side: int) -> Path:
    """A scene of the demo, enlarged to a square and grained."""
    rng = np.random.default_rng(0)
    scene = Image.fromarray(draw_scene(0, objects=7).image).resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(scene)
    for rows in np.array_split(np.arange(side), -(-side // 512)):  # in parts: the noise of all of it is large
        grain = rng.normal(0, 4, (len(rows), side, 1))
        part = pixels[rows[0] : rows[-1] + 1] + grain
        scene.paste(Image.fromarray(part.clip(0, 255).astype(np.uint8)), (0, int(rows[0])))
    save_image(path, scene)
    return path


def measure(checkpoint: Path, photograph: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Predict a photograph in all ways, in this process; see the head of this file.

    Args:
        checkpoint: Of the model.
        photograph: The file.
        folder: For the results of all rounds.
        rounds: How often.
    """
    small = folder / "small.jpg"
    save_image(small, Image.open(photograph).resize((SMALL, SMALL)))
    measure_round(checkpoint, small, folder / "warm")
    above = measure_memory(checkpoint, photograph, folder / "memory")
    found = [measure_round(checkpoint, photograph, folder / str(number)) for number in range(rounds)]
    middle = {name: median(row[name] for row in found) for name in found[0]}
    times = {name: round(middle[name] / middle["decode"], 2) for name in ("predict", "files", "pictures")}
    return {**middle, "above": above, "times": times}


def measure_memory(checkpoint: Path, photograph: Path, output: Path) -> float:
    """Of `pe-spatial predict` at its peak, in GB, without what was there before and the picture itself."""
    size = read_image(photograph).numel()
    predictor, write = opened(checkpoint, photograph, output, no_pictures=False)
    before = forget_peak("cpu")
    write()
    return peak_memory("cpu") - before - size / 1e9


def measure_round(checkpoint: Path, photograph: Path, output: Path) -> dict[str, float]:
    """The figures of one round; the checkpoint is loaded before the clocks start."""
    started = time.process_time()
    read_image(photograph)
    figures = {"decode": time.process_time() - started}
    for name in ("files", "pictures"):
        predictor, write = opened(checkpoint, photograph, output / name, name == "files")
        with clocks(predictor.model) as figures_of:
            write()
        figures[name] = figures_of["rest"]
    with clocks(predictor.model) as figures_of:
        predictor(photograph)
    return {**figures, "predict": figures_of["rest"], "network": figures_of["network"], "wall": figures_of["wall"]}


def opened(checkpoint: Path, photograph: Path, output: Path, no_pictures: bool) -> tuple[Predictor, Callable[[], None]]:
    """A predictor as `pe-spatial predict` opens it, and what that command then does with the photograph."""
    files = {entry.name: entry for entry in resolve_sources([photograph])}
    options = command_options(checkpoint, photograph, output, no_pictures)
    models = find_models(options, command.part_of(options))
    predictor, writer, _ = open_models(models, output_stems(files), "encoder")
    assert isinstance(predictor, Predictor)

    def write() -> None:
        if failed := command.predict(predictor, writer, files):
            raise UserError(f"{checkpoint}: {failed}")

    return predictor, write


@contextmanager
def clocks(model: nn.Module) -> Iterator[dict[str, float]]:
    """Seconds of a block, known after it: of the processor in the network and in all else, and by the clock."""
    figures: dict[str, float] = {}
    with time_in_networks(model) as network:
        started, wall = time.process_time(), time.perf_counter()
        yield figures
        total, figures["wall"] = time.process_time() - started, time.perf_counter() - wall
    figures["network"] = sum(network)
    figures["rest"] = total - sum(network)


def command_options(checkpoint: Path, photograph: Path, output: Path, no_pictures: bool) -> argparse.Namespace:
    """What `pe-spatial predict` takes from its command line."""
    arguments = ["--checkpoint", str(checkpoint), "--input", str(photograph), "--output", str(output)]
    arguments += ["--device", "cpu", *(["--no-pictures"] if no_pictures else [])]
    return parse("pe-spatial predict", command, arguments)[0]


@contextmanager
def time_in_networks(model: nn.Module) -> Iterator[list[float]]:
    """The seconds of the processor in the modules of a model, the outermost ones of a nest counted."""
    depth, started, spent = 0, 0.0, []

    def enter(*_: object) -> None:
        nonlocal depth, started
        if depth == 0:
            started = time.process_time()
        depth += 1

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            spent.append(time.process_time() - started)

    inside = [part for name, part in model.named_modules() if name and not name.startswith("data_preprocessor")]
    hooks = [part.register_forward_pre_hook(enter) for part in inside]
    hooks += [part.register_forward_hook(leave, always_call=True) for part in inside]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
