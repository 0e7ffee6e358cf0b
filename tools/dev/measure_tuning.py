"""What full training, LoRA and a frozen encoder keep in memory, and how long a step of each takes.

    python tools/dev/measure_tuning.py --variant PE-Spatial-B16-512 --image-size 1024 --rank 8

One image, float32, AdamW, random weights, no head, windows of 32 patches with four global blocks as in the detectors;
each tuning in a process of its own. `states_gb` are weights, gradients and the optimizer's averages, counted after a
step; `peak_gb` is the largest memory of the process, activations and the libraries included; `step_s` is CPU time.
"""

import argparse
import sys
from typing import Any

import torch

from pe_spatial.backbones import EncoderConfig, PEBackbone
from pe_spatial.commands.benchmark.measuring import clock_of, in_own_process, show, timed
from pe_spatial.commands.conversion import named_variant
from pe_spatial.commands.options import CommandParser, add_shared, positive
from pe_spatial.commands.shell import run_module
from pe_spatial.common.devices import peak_memory
from pe_spatial.common.tensors import tensor_bytes

TUNINGS = ("full", "lora", "frozen")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of this study."""
    parser.add_argument("--variant", default="PE-Spatial-B16-512", metavar="NAME", help="an encoder, or fields as JSON")
    add_shared(parser, "--image-size")
    parser.set_defaults(image_size=1024)
    parser.add_argument("--rank", type=positive, default=8, metavar="N", help="of LoRA")
    parser.add_argument("--checkpointing", action="store_true", help="compute blocks twice instead of keeping them")


def run(options: argparse.Namespace) -> int:
    """Measure every tuning and print a line for each."""
    variant = named_variant(options.variant)
    settings = {"window": 32, "global_blocks": global_blocks(variant.depth)}
    settings |= {"rope": "interpolate", "pos_embed": "tile", "checkpointing": options.checkpointing}
    for tuning in TUNINGS:
        show({"tuning": tuning} | in_own_process(measure, tuning, variant, options, settings))
    return 0


def global_blocks(depth: int) -> list[int]:
    """The last block of each quarter of an encoder."""
    return [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def measure(
    tuning: str, variant: EncoderConfig, options: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, int | float]:
    """Take two steps of one tuning; the second is timed.

    Args:
        tuning: One of `TUNINGS`.
        variant: The encoder.
        options: With `image_size` and `rank`.
        settings: Other options of the backbone.
    """
    choice = {"full": {}, "lora": {"lora": {"rank": options.rank}}, "frozen": {"frozen": True}}[tuning]
    backbone = PEBackbone(variant, **settings, **choice).train()
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=False) if trained else None
    image = torch.randn(1, 3, options.image_size, options.image_size)

    def step() -> None:
        (output,) = backbone(image)
        if optimizer:
            backbone.zero_grad()
            output.square().mean().backward()
            optimizer.step()

    step()
    seconds = timed(step, clock_of("cpu", "cpu"))
    gradients = [parameter.grad for parameter in trained]
    states = list(optimizer.state.values()) if optimizer else []
    return {
        "trained": sum(parameter.numel() for parameter in trained),
        "states_gb": tensor_bytes([list(backbone.parameters()), gradients, states]) / 1e9,
        "peak_gb": peak_memory(),
        "step_s": seconds,
    }


if __name__ == "__main__":
    raise SystemExit(run_module(sys.modules[__name__], __file__))
