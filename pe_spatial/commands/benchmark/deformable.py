"""Multi-scale deformable attention against `grid_sample`: `pe-spatial benchmark deformable`."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.commands.benchmark import measuring
from pe_spatial.common.devices import peak_memory
from pe_spatial.detection.deta.deformable import Shapes, deformable_attention
from pe_spatial.detection.deta.tokens import TokenGrid

HEADS, CHANNELS, POINTS = 8, 32, 4
Attention = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]


def sample_and_sum(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Deformable attention with `grid_sample`, level by level; arguments as of `deformable_attention`."""
    images, queries = len(value), locations.shape[1]
    sampled = []
    for level, (tokens, (rows, columns)) in enumerate(
        zip(value.split([rows * columns for rows, columns in shapes], dim=1), shapes, strict=True)
    ):
        maps = tokens.flatten(2).transpose(1, 2).reshape(images * value.shape[2], -1, rows, columns)  # [B * H, D, h, w]
        places = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # [B * H, Q, P, 2]
        sampled.append(F.grid_sample(maps, places.to(maps.dtype), align_corners=False))
    shares = weights.transpose(1, 2).flatten(0, 1).flatten(2)[:, None]  # [B * H, 1, Q, L * P]
    summed = (torch.cat(sampled, dim=-1) * shares).sum(-1)  # [B * H, D, Q]
    return summed.view(images, -1, queries).transpose(1, 2)


def implementations(chunk: int) -> dict[str, Attention]:
    """What is compared, the first with the others."""
    return {
        "grid_sample": sample_and_sum,
        "ours, all at once": deformable_attention,
        f"ours, {chunk} at once": partial(deformable_attention, chunk=chunk),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run, show and return the figures."""
    shapes = pyramid(options.image_size)
    tokens = sum(rows * columns for rows, columns in shapes)
    print(f"levels {' '.join(f'{h}x{w}' for h, w in shapes)}: {tokens} queries, {HEADS} heads, {POINTS} points a level")
    rows = []
    for dtype in options.dtype:
        seconds = time_all(options, shapes, dtype) if options.rounds else {}
        for name in implementations(options.chunk):
            row: dict[str, Any] = {"dtype": dtype, "name": name, **seconds.get(name, {})}
            if not options.no_memory:
                setting = (options.image_size, dtype, options.device, options.chunk, name)
                for kind in ("forward", "training"):
                    row[f"{kind}_mb"] = measuring.in_own_process(peak, *setting, kind)
            rows.append(row)
            measuring.show(row)
    return {"size": options.image_size, "shapes": shapes, "chunk": options.chunk, "clock": options.clock, "rows": rows}


def pyramid(size: int) -> list[tuple[int, int]]:
    """Shapes of DETA's five levels for a square image, patches of 16."""
    side = size // 16
    sides = [2 * side, side, side // 2]
    for _ in range(2):
        sides.append((sides[-1] + 1) // 2)
    return [(s, s) for s in sides]


def make_inputs(shapes: Shapes, dtype: str, device: str) -> tuple[Tensor, Shapes, Tensor, Tensor]:
    """Values, places around the queries, and weights, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(rows * columns for rows, columns in shapes)
    grid = TokenGrid(tuple(shapes), torch.tensor([shapes], dtype=torch.float32).flip(2))
    samples = (HEADS, len(shapes), POINTS)
    offsets = 2 * torch.randn(1, tokens, *samples, 2, generator=generator) / grid.valid[0, :, None]
    locations = (grid.centers.view(1, tokens, 1, 1, 1, 2) + offsets).to(device)
    weights = torch.rand(1, tokens, *samples, generator=generator).to(device) / (len(shapes) * POINTS)
    value = torch.randn(1, tokens, HEADS, CHANNELS, generator=generator).to(device, getattr(torch, dtype))
    return value.requires_grad_(), shapes, locations.requires_grad_(), weights.requires_grad_()


def time_all(options: argparse.Namespace, shapes: Shapes, dtype: str) -> dict[str, dict[str, float]]:
    """Median seconds forward and backward of all implementations, which take turns."""
    clock = measuring.clock_of(options.device, options.clock)
    inputs = make_inputs(shapes, dtype, options.device)

    def both_passes(attend: Attention, _: int) -> tuple[float, float]:
        start = clock()
        output = attend(*inputs)
        middle = clock()
        output.float().square().sum().backward()
        return middle - start, clock() - middle

    ways = {name: partial(both_passes, attend) for name, attend in implementations(options.chunk).items()}
    medians = {}
    for name, times in measuring.take_turns(ways, options.rounds).items():
        forward, backward = zip(*times, strict=True)
        medians[name] = {"forward_s": statistics.median(forward), "backward_s": statistics.median(backward)}
    return medians


def peak(size: int, dtype: str, device: str, chunk: int, name: str, kind: str) -> float:
    """Peak MB that a pass takes on top of its inputs, in a process that does nothing else."""
    inputs = make_inputs(pyramid(size), dtype, device)
    attend = implementations(chunk)[name]
    small = make_inputs(pyramid(64), dtype, device)
    run_pass(attend, small, kind)  # what is loaded at the first use does not count
    before = measuring.forget_peak(device)
    run_pass(attend, inputs, kind)
    return 1e3 * (peak_memory(device) - before)


def run_pass(attend: Attention, inputs: tuple[Tensor, Shapes, Tensor, Tensor], kind: str) -> None:
    """A forward pass alone, or one with its backward pass."""
    if kind == "forward":
        with torch.no_grad():
            attend(*inputs)
    else:
        attend(*inputs).float().square().sum().backward()
