"""Label propagation against the logic of DINO's script: `pe-spatial benchmark tracking`."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.commands.benchmark.measuring import clock_of, show, timed
from pe_spatial.tracking.label_tracker import LabelTracker
from pe_spatial.tracking.propagation import Propagation, unit


@torch.no_grad()
def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run both on one clip, show and return the figures."""
    clock, dtype = clock_of(options.device, options.clock), getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(options.frames, *options.grid, options.channels, generator=generator).to(options.device)
    mask = torch.randint(0, options.objects + 1, tuple(options.grid), generator=generator)
    labels = F.one_hot(mask, options.objects + 1).permute(2, 0, 1).float().to(options.device)

    script, ours = Script(clip[0], labels, Propagation()), LabelTracker()
    ours.step(unit(clip[0]).to(dtype), options.grid, options.grid, mask)
    seconds = {"script_mask": timed(lambda: script.build_mask(*options.grid), clock)}
    seconds |= dict.fromkeys(("script_frames", "ours", "bound"), 0.0)
    for number, frame in enumerate(clip[1:], start=1):
        seconds["script_frames"] += timed(partial(script.step, frame), clock)
        features = frame.to(dtype)
        seconds["ours"] += timed(partial(propagate_and_remember, ours, features), clock)
        left, right = products_in_reach(options.grid, options.channels, min(number, 8), features)
        seconds["bound"] += timed(partial(torch.matmul, left, right), clock)
    newest = max(range(len(ours.memory.slots)), key=lambda index: ours.memory.slots[index].frame)
    soft = ours.memory.labels[:, :, newest]
    difference = (soft - script.labels[-1].permute(1, 2, 0)[..., 1:]).abs().max().item()

    figures = {name: getattr(options, name) for name in ("grid", "channels", "frames", "dtype")}
    seconds["script"] = seconds["script_mask"] + seconds["script_frames"]
    ratios = {"ratio": seconds["script"] / seconds["ours"], "ours_over_bound": seconds["ours"] / seconds["bound"]}
    for group in (figures, seconds, {**ratios, "difference": difference}):
        show(group)
    return {**figures, **seconds, **ratios, "difference": difference}


def propagate_and_remember(tracker: LabelTracker, features: Tensor) -> None:
    """What a tracker does between the encoder and the decoding of a mask."""
    features = unit(features)
    shares = tracker._propagate(features)
    tracker.memory.remember(features, shares, tracker.frame, reference=False)
    tracker.frame += 1


def products_in_reach(grid: Sequence[int], channels: int, contexts: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices whose product has as many operations as all neighborhoods have pairs of tokens."""
    radius = int(Propagation().radius or 0)
    reach = [sum(min(p + radius, n - 1) - max(p - radius, 0) + 1 for p in range(n)) for n in grid]
    tokens = grid[0] * grid[1]
    keys = round(reach[0] * reach[1] * contexts / tokens)
    return like.new_ones(tokens, channels), like.new_ones(channels, keys)


class Script:
    """The logic of DINO's `eval_video_segmentation.py`, written anew from its description: the thing to compare with.

    Args:
        frame: features [h, w, C] of the first frame.
        labels: of the first frame, one-hot [M, h, w].
        how: its settings.
    """

    def __init__(self, frame: Tensor, labels: Tensor, how: Propagation) -> None:
        self.how = how
        self.features = [frame.flatten(0, 1).T]
        self.labels = [labels]
        self.mask = torch.empty(0)

    def build_mask(self, rows: int, columns: int) -> None:
        """Fill the neighborhood of every token, one pair at a time."""
        radius = int(self.how.radius or 0)
        mask = torch.zeros(rows, columns, rows, columns)
        for y in range(rows):
            for x in range(columns):
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        if 0 <= y + dy < rows and 0 <= x + dx < columns:
                            mask[y, x, y + dy, x + dx] = 1
        self.mask = mask.view(rows * columns, -1).to(self.labels[0].device)

    def step(self, frame: Tensor) -> None:
        """Propagate to the features [h, w, C] of the next frame, and keep it among the last 7."""
        rows, columns, _ = frame.shape
        contexts = len(self.features)
        target = F.normalize(frame.flatten(0, 1), dim=1).expand(contexts, -1, -1)  # [S, hw, C]
        sources = F.normalize(torch.stack(self.features), dim=1)  # [S, C, hw]
        affinity = torch.exp(torch.bmm(target, sources) / self.how.temperature)  # [S, hw, hw]
        affinity = affinity * self.mask
        affinity = affinity.transpose(1, 2).reshape(-1, rows * columns)  # [S * hw, hw]
        least = affinity.topk(self.how.topk, dim=0).values.amin(dim=0)
        affinity[affinity < least] = 0
        affinity = affinity / affinity.sum(dim=0, keepdim=True)
        labels = torch.stack(self.labels).flatten(2).transpose(1, 2).flatten(0, 1)  # [S * hw, M]
        self.labels.append((labels.T @ affinity).view(-1, rows, columns))
        self.features.append(frame.flatten(0, 1).T)
        if len(self.features) > 8:  # the first one stays
            del self.features[1], self.labels[1]
