"""Measure speed on this machine.

    python tools/benchmark.py backbone --variant PE-Spatial-T16-512
    python tools/benchmark.py backbone --variant PE-Spatial-B16-512 --device cuda --dtype bf16 --mode eager,compiled \
        --pass forward,backward --batch 8 --json backbone.json
    python tools/benchmark.py tracking --channels 768
    python tools/benchmark.py deformable
    python tools/benchmark.py teacher --input photos --image-size 256
    python tools/benchmark.py segmentation --input ../shared/data/coco_tiny/val2017 --memory 4000 6000

A subcommand that needs more than a few functions lives in a file of its own beside this one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from pe_spatial.backbones import EncoderConfig, VisionTransformer, get_variant
from pe_spatial.commands.benchmark.deformable import add_deformable
from pe_spatial.commands.benchmark.segmentation import add_segmentation
from pe_spatial.commands.benchmark.teacher import add_teacher
from pe_spatial.commands.benchmark.tracking import add_tracking
from pe_spatial.common.files import write_json

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMM_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="what")
    for name, (add, purpose) in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        add_common(command)
        add(command)
    args = parser.parse_args(arguments)
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    report = {"device": device_name(args.device), "torch": torch.__version__} | args.run(args)
    if args.json:
        write_json(args.json, report)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every subcommand has."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads (all cores)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def add_backbone(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds, after one to warm up")
    parser.add_argument("--variant", default="PE-Spatial-T16-512", help="official name of the encoder")
    parser.add_argument("--dtype", type=choices(DTYPES), default=["fp32"], help="fp32, bf16 or both with a comma")
    parser.add_argument("--mode", type=choices(["eager", "compiled"]), default=["eager"])
    parser.add_argument("--pass", dest="passes", type=choices(["forward", "backward"]), default=["forward"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="side of the images in pixels (the native size)")
    parser.set_defaults(run=run_backbone)


def run_backbone(args: argparse.Namespace) -> dict:
    """Time ours and timm's encoder in alternating rounds and print a table."""
    config = get_variant(args.variant)
    size = args.size or config.image_size
    print(f"{config.name}, {args.batch} x 3 x {size} x {size}, {device_name(args.device)}, torch {torch.__version__}")
    timm_name = find_timm_name(config)
    print(f"{'dtype':6} {'mode':9} {'pass':9} {'ours ms':>10} {'timm ms':>10} {'timm/ours':>10}", flush=True)
    rows = []
    for dtype, mode, direction in product(args.dtype, args.mode, args.passes):
        torch.compiler.reset()
        models = (
            [build_ours(config)] if timm_name is None else [build_ours(config), build_timm(timm_name, config, size)]
        )
        x = torch.randn(args.batch, 3, size, size, device=args.device, dtype=DTYPES[dtype])
        steps = [
            make_step(model.to(args.device, DTYPES[dtype]), call, x, mode == "compiled", direction == "backward")
            for model, call in models
        ]
        seconds = time_alternating(steps, args.rounds, args.device)
        times = [statistics.median(t) * 1e3 for t in seconds]
        # neighbors in time share what else the machine does, so the ratio is taken inside each round
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True)) if timm_name else None
        cells = [f"{t:10.2f}" for t in times] + ([f"{ratio:10.2f}"] if ratio else ["  timm is missing"])
        print(f"{dtype:6} {mode:9} {direction:9} {' '.join(cells)}", flush=True)
        rows.append({"dtype": dtype, "mode": mode, "pass": direction, "ours_ms": times[0]})
        if ratio:
            rows[-1] |= {"timm_ms": times[1], "timm_over_ours": ratio}
    return {"variant": config.name, "batch": args.batch, "size": size, "threads": torch.get_num_threads(), "rows": rows}


def build_ours(config: EncoderConfig) -> tuple[nn.Module, str]:
    return VisionTransformer(config), "forward"


def build_timm(name: str, config: EncoderConfig, size: int) -> tuple[nn.Module, str]:
    """Build timm's model; returns it and the method that computes what our `forward` does."""
    import timm

    model = timm.create_model(name, num_classes=config.output_dim or 0, img_size=size)
    return model, "forward" if config.attn_pool else "forward_features"


def find_timm_name(config: EncoderConfig) -> str | None:
    """Return timm's name of an official encoder; None, with a printed reason, if there is none."""
    try:
        import timm
    except ImportError:
        print("timm is missing, so there is nothing to compare with: pip install timm")
        return None
    kind, size = config.name.removeprefix("PE-").split("-")[:2]
    name = f"vit_pe_{kind.lower()}_{TIMM_SIZES.get(size[:1])}_patch{config.patch_size}_{config.image_size}"
    if not timm.is_model(name):
        print(f"timm {timm.__version__} has no {name}, so there is nothing to compare with")
        return None
    print(f"timm {timm.__version__}: {name}")
    return name


def make_step(model: nn.Module, method: str, x: Tensor, compiled: bool, backward: bool) -> Callable[[], None]:
    """Return a function that runs the model once, forward or forward and backward."""
    model.train(backward)
    call = getattr(model, method)
    if compiled:
        call = torch.compile(call, fullgraph=True)

    def step() -> None:
        with torch.set_grad_enabled(backward):
            output = call(x)
        if backward:
            output.float().square().mean().backward()
            model.zero_grad(set_to_none=True)

    return step


def time_alternating(steps: Sequence[Callable[[], None]], rounds: int, device: str) -> list[list[float]]:
    """Return the seconds of every round for every step; the order turns each round, so that drift hits all alike."""
    times: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        order = range(len(steps)) if number % 2 else reversed(range(len(steps)))
        for i in order:
            synchronize(device)
            start = time.perf_counter()
            steps[i]()
            synchronize(device)
            if number:  # the first round warms up
                times[i].append(time.perf_counter() - start)
    return times


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else device}, {torch.get_num_threads()} threads"


def choices(allowed: Sequence[str] | dict[str, torch.dtype]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
        return names

    return parse


SUBCOMMANDS = {
    "backbone": (add_backbone, "an encoder against timm's model of the same name"),
    "deformable": (add_deformable, "DETA's attention against grid_sample"),
    "segmentation": (add_segmentation, "a folder against mmseg's inferencer"),
    "teacher": (add_teacher, "the teacher of SAM's masks against SAM's automatic generator"),
    "tracking": (add_tracking, "label propagation against the logic of DINO's script"),
}

if __name__ == "__main__":
    main()
