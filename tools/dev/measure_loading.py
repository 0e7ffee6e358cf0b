"""Whether the data keeps up with the smallest student: seconds to load an image from tar shards, and to train on it.

    python tools/dev/measure_loading.py --data coco/train2017 --weights vit_s14.safetensors --output loading

The photographs are packed into tars, each several times over, as the shards of a large set are. The student has the
shape of PE-Spatial-T. It learns from the encoder of tools/dev/real_encoder.py, or from a teacher that takes no time:
these are the fastest steps that can wait for data. All is the processor time of one thread, so that other work on the
machine does not count. The last column is the part of a step in which one process loads the image.
"""

import argparse
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.alignment.teachers import Teacher
from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.files import atomic_path
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.training.planner.timing import StepTime, time_training

TEACHER = "vit_small_patch14_dinov2"
PHOTOGRAPHS, BATCH = 400, 4  # of a shard; of a step


@MODELS.register_module()
class FreeTeacher(Teacher):
    """Features of zeros, at no cost."""

    channels = 384

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`."""
        return inputs.new_zeros(len(inputs), self.channels, *grid)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of photographs")
    add("--weights", type=Path, required=True, help="of the teacher; see tools/dev/real_encoder.py")
    add("--output", type=Path, required=True, help="folder for the shards")
    add("--sizes", type=positive, nargs="+", default=[224, 512], metavar="PIXELS", help="of the student")
    add("--shards", type=positive, default=2, metavar="N", help=f"of {PHOTOGRAPHS} photographs each (default: 2)")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    torch.set_num_threads(1)
    shards = [pack(options.data, options.output / f"{number:05d}.tar") for number in range(options.shards)]
    print("| pixels | teacher | loading, s an image | training, s an image | of a step |\n|---|---|---|---|---|")
    for size in options.sizes:
        for teacher in (TEACHER, "none"):
            found = measure(options, shards, size, teacher)
            print(f"| {size} | {teacher} | {found.loading:.4f} | {found.step:.3f} | {found.loading / found.step:.0%} |")
    return 0


def pack(folder: Path, path: Path) -> Path:
    """A tar of `PHOTOGRAPHS` pictures, those of a folder over and over; unless it is there."""
    pictures = sorted(folder.iterdir())
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, tarfile.open(partial, "w") as archive:
            for number in range(PHOTOGRAPHS):
                picture = pictures[number % len(pictures)]
                archive.add(picture, f"{number:06d}{picture.suffix}")
    return path


def measure(options: argparse.Namespace, shards: Sequence[Path], size: int, teacher: str) -> StepTime:
    """Time the training of a T student."""
    request = Request(
        "alignment",
        options.data,
        model="core-t",
        weights="none",
        teacher=[f"{TEACHER}={options.weights}"],
        image_size=size,
        workers=0,
        output=options.output / "run",
    )
    config = compose(request).config
    pipeline: Any = config.train_dataloader.dataset.pipeline
    config.train_dataloader.dataset = {"type": "TarImages", "source": list(map(str, shards)), "pipeline": pipeline}
    config.train_dataloader.batch_size = BATCH
    if teacher == "none":
        config.model.teachers[TEACHER] = {"type": "FreeTeacher"}
    return time_training(config, time.process_time)


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
