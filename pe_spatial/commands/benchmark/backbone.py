"""The encoder against timm's model of the same name: `pe-spatial benchmark backbone`."""

import argparse
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from pe_spatial.backbones import EncoderConfig, VisionTransformer, get_variant
from pe_spatial.commands.benchmark.measuring import clock_of, median_ratio, show, take_turns

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TIMM_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Time ours and timm's encoder in alternating rounds and show the figures of each setting."""
    config = get_variant(options.variant)
    size, batch = options.image_size or config.image_size, options.batch_size
    setting = {"variant": config.name, "batch": batch, "size": size}
    show(setting)
    timm_name = find_timm_name(config)
    rows = []
    for dtype, mode, direction in product(options.dtype, options.mode, options.passes):
        torch.compiler.reset()
        models: dict[str, tuple[nn.Module, str]] = {"ours": (VisionTransformer(config), "forward")}
        if timm_name:
            models["timm"] = build_timm(timm_name, config, size)
        x = torch.randn(batch, 3, size, size, device=options.device, dtype=DTYPES[dtype])
        steps = {
            name: make_step(model.to(x), call, x, mode == "compiled", direction == "backward")
            for name, (model, call) in models.items()
        }
        seconds = take_turns(steps, options.rounds)
        row = {"dtype": dtype, "mode": mode, "pass": direction}
        row |= {f"{name}_ms": statistics.median(times) * 1e3 for name, times in seconds.items()}
        if timm_name:
            row["timm_over_ours"] = median_ratio(*seconds.values())
        show(row)
        rows.append(row)
    return {**setting, "rows": rows}


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


def make_step(model: nn.Module, method: str, x: Tensor, compiled: bool, backward: bool) -> Callable[[int], float]:
    """Return a function that runs the model once, forward or forward and backward, and tells how long it took."""
    model.train(backward)
    call, clock = getattr(model, method), clock_of(x.device)
    if compiled:
        call = torch.compile(call, fullgraph=True)

    def step(_: int) -> float:
        started = clock()
        with torch.set_grad_enabled(backward):
            output = call(x)
        if backward:
            output.float().square().mean().backward()
            model.zero_grad(set_to_none=True)
        return clock() - started

    return step
