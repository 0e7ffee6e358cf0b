"""Compare the planner with the memory that a training process holds on the CPU: the table of docs/planner.md.

    python tools/dev/measure_planner.py

Fourteen trainings of six tasks, each in a process of its own: three iterations on made batches. Measured is the most
that the process held (VmHWM of Linux) less what it held before the model was built. Cost: 4 minutes of one core.
"""

import argparse
import json
import os
import subprocess
import sys

from pe_spatial.commands.options import CommandParser, positive
from pe_spatial.commands.shell import run_module

TINY = "model.backbone.variant={base: PE-Spatial-T16-512, name: T}"
FULL = "model.backbone.frozen=false"
CHECKPOINTING = "model.backbone.checkpointing=true"
LORA = "model.backbone.lora={rank: 16}"
MASK_RCNN = ("detection, Mask R-CNN", "demo/mask_rcnn_tiny_shapes", TINY)
DETA = ("detection, DETA", "demo/deta_tiny_shapes", TINY)
SEMANTIC = ("semantic, linear", "demo/seg_linear_tiny_shapes", TINY, FULL)
PANOPTIC = (
    "panoptic, mask decoder",
    "demo/seg_mask_decoder_tiny_shapes",
    TINY,
    "model.data_preprocessor.size_divisor=16",
)
DEPTH = ("depth, DPT", "demo/depth_dpt_tiny_shapes", TINY, "model.backbone.layers=[2, 5, 8, 11]")
ALIGNMENT = (
    "alignment, teacher S",
    "own/alignment_teacher",
    "model.student.variant=PE-Spatial-T16-512",
    "model.teachers.teacher.variant=PE-Spatial-S16-512",
)
# what is trained, side in pixels, images, and a change
CASES: list[tuple[tuple[str, ...], int, int, str]] = [
    (MASK_RCNN, 256, 4, ""),
    (MASK_RCNN, 384, 4, CHECKPOINTING),
    (MASK_RCNN, 320, 4, LORA),
    (DETA, 256, 4, ""),
    (DETA, 320, 4, CHECKPOINTING),
    (SEMANTIC, 256, 8, ""),
    (SEMANTIC, 384, 8, CHECKPOINTING),
    (PANOPTIC, 320, 2, ""),
    (PANOPTIC, 256, 4, LORA),
    (DEPTH, 256, 4, ""),
    (DEPTH, 384, 4, CHECKPOINTING),
    (DEPTH, 320, 4, LORA),
    (ALIGNMENT, 256, 4, ""),
    (ALIGNMENT, 384, 4, "model.student.checkpointing=true"),
]


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("--case", type=positive, metavar="N", help="run this one alone, in this process (from 1)")


def run(options: argparse.Namespace) -> int:
    """Print the table, or one row as JSON."""
    if options.case:
        print(json.dumps(measure(*CASES[options.case - 1])))
        return 0
    from pe_spatial.training.planner.variation import takes_lora

    print("| training | pixels | images | | predicted MB | measured MB | error |\n|---|---|---|---|---|---|---|")
    for number, (part, side, images, change) in enumerate(CASES, start=1):
        name = change.partition("=")[0].rpartition(".")[2] or "–"
        if change == LORA and not takes_lora():
            print(f"| {part[0]} | {side} | {images} | {name} | this version has no LoRA | | |")
            continue
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--case", str(number)]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        predicted, measured = json.loads(output.splitlines()[-1])
        error = f"{predicted / measured - 1:+.1%}"
        print(f"| {part[0]} | {side} | {images} | {name} | {predicted:.0f} | {measured:.0f} | {error} |", flush=True)
    return 0


def measure(part: tuple[str, ...], side: int, images: int, change: str) -> tuple[float, float]:
    """(predicted, measured) megabytes of one training."""
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope

    from pe_spatial.common.devices import peak_memory
    from pe_spatial.common.memory import process_memory
    from pe_spatial.training.config import load_config
    from pe_spatial.training.planner import predict
    from pe_spatial.training.planner.inputs import make_batch
    from pe_spatial.training.planner.variation import build_model, model_settings, prepare_iteration, variation_of

    _, name, *changes = part
    size = f"model.data_preprocessor.pad_to=[{side}, {side}]"
    config = load_config(name, [*changes, *filter(None, [change]), size, f"train_dataloader.batch_size={images}"])
    wrapper = config.optim_wrapper.to_dict()
    constructor, paramwise = wrapper.pop("constructor"), wrapper.pop("paramwise_cfg")
    before = process_memory()
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        model = build_model(model_settings(config, variation_of(config)), "cpu")
        prepare_iteration(config, model)
        optimizer = OPTIM_WRAPPER_CONSTRUCTORS.get(constructor)(wrapper, paramwise)(model)
        for _ in range(3):
            model.train_step(make_batch(config, images, (side, side)), optimizer)
    measured = peak_memory() * 1e9 - before  # before the prediction, which has its own peak
    return predict(config).memory / 1e6, measured / 1e6


if __name__ == "__main__":
    sys.exit(run_module(sys.modules[__name__], "tools/dev/measure_planner.py"))
