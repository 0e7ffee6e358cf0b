"""The encoder against timm's model of the same name: `pe-spatial benchmark backbone`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones import EncoderConfig, VisionTransformer, get_variant
from pe_spatial.commands.benchmark.devices import describe_device, synchronize

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMM_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time ours and timm's encoder in alternating rounds and print a table."""
    config = get_variant(options.variant)
    size = options.image_size or config.image_size
    batch, device = options.batch_size, describe_device(options.device)
    print(f"{config.name}, {batch} x 3 x {size} x {size}, {device}, torch {torch.__version__}")
    timm_name = find_timm_name(config)
    print(f"{'dtype':6} {'mode':9} {'pass':9} {'ours ms':>10} {'timm ms':>10} {'timm/ours':>10}", flush=True)
    rows = []
    for dtype, mode, direction in product(options.dtype, options.mode, options.passes):
        torch.compiler.reset()
        models = (
            [build_ours(config)] if timm_name is None else [build_ours(config), build_timm(timm_name, config, size)]
        )
        x = torch.randn(batch, 3, size, size, device=options.device, dtype=DTYPES[dtype])
        steps = [
            make_step(model.to(options.device, DTYPES[dtype]), call, x, mode == "compiled", direction == "backward")
            for model, call in models
        ]
        seconds = time_alternating(steps, options.rounds, options.device)
        times = [statistics.median(t) * 1e3 for t in seconds]
        # neighbors in time share what else the machine does, so the ratio is taken inside each round
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True)) if timm_name else None
        cells = [f"{t:10.2f}" for t in times] + ([f"{ratio:10.2f}"] if ratio else ["  timm is missing"])
        print(f"{dtype:6} {mode:9} {direction:9} {' '.join(cells)}", flush=True)
        rows.append({"dtype": dtype, "mode": mode, "pass": direction, "ours_ms": times[0]})
        if ratio:
            rows[-1] |= {"timm_ms": times[1], "timm_over_ours": ratio}
    return {
        "variant": config.name,
        "batch": batch,
        "size": size,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


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
