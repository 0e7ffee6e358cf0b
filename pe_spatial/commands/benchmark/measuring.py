"""What the benchmarks share: clocks that wait for the device, turns, peaks of memory, and how figures are shown."""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from pe_spatial.common.devices import peak_memory

T = TypeVar("T")
Clock = Callable[[], float]


def show(figures: Mapping[str, Any]) -> None:
    """Print figures in a line, each after the name that it has in the file of `--json`."""
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in figures.values()]
    print("  ".join(f"{name} {text:<8}" for name, text in zip(figures, texts, strict=True)).rstrip(), flush=True)


def clock_of(device: str | torch.device, kind: str = "wall") -> Clock:
    """A clock in seconds that first waits until the device has done its work.

    Args:
        device: Where the work is done.
        kind: `wall`, or `cpu` for the time of this process.
    """
    tick = time.perf_counter if kind == "wall" else time.process_time

    def clock() -> float:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return tick()

    return clock


def timed(work: Callable[[], object], clock: Clock) -> float:
    """Seconds that a call takes."""
    started = clock()
    work()
    return clock() - started


def take_turns(ways: Mapping[str, Callable[[int], T]], rounds: int) -> dict[str, list[T]]:
    """What every way returned in every round but the first, which warms up; it is given the number of the round.

    The order turns each round, so that drift hits all alike.
    """
    results: dict[str, list[T]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            result = ways[name](number)
            if number:
                results[name].append(result)
    return results


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times theirs is ours. Neighbors in time share what else the machine does, so it is taken by rounds."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def in_own_process(function: Callable[..., T], *arguments: object) -> T:
    """What a function returns in a fresh process, whose memory nothing else has used."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def forget_peak(device: str) -> float:
    """Begin to measure the peak anew, where that is possible; returns what it is now, in GB."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)
