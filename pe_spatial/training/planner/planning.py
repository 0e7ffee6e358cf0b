"""`plan`: which ways to train a config fit into a memory; `predict`: what the config itself takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pe_spatial.common.console import progress
from pe_spatial.common.devices import choose_device, device_name
from pe_spatial.common.errors import UserError
from pe_spatial.common.memory import available_memory, gigabytes, process_memory
from pe_spatial.training.binding import count_classes
from pe_spatial.training.config_files import read_config_file
from pe_spatial.training.planner.costs import StepModel, model_steps, operations_per_second
from pe_spatial.training.planner.devices import CONSTANTS, DeviceConstants, Learned, learn
from pe_spatial.training.planner.fixed import FixedCost, count_fixed
from pe_spatial.training.planner.inputs import Size, training_size
from pe_spatial.training.planner.rows import Row, batches, by_preference, by_time, changes_of, overrides_for, own_batch
from pe_spatial.training.planner.variation import Variation, model_settings, side_unit, variation_of, variations
from pe_spatial.training.start import naming_mistakes

_SMALLER = (0.75, 0.5)  # sides that are tried beside the config's own


@dataclass(frozen=True)
class Target:
    """What a plan is made for.

    Args:
        on_cuda: Whether it is a GPU, here or elsewhere.
        device: That measures.
        name: What it is called; a GPU that is not here has no name.
        constants: Of its kind, corrected by cards if there are any.
        held: Bytes of a CPU that the process has taken already: for packages and for lists of data.
    """

    on_cuda: bool
    device: torch.device
    name: str
    constants: DeviceConstants
    held: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether what is measured is the device of the plan, so that time can be told."""
        return self.on_cuda == (self.device.type == "cuda")


@dataclass(frozen=True)
class Plan:
    """The ways to train a config.

    Args:
        target: What for.
        memory: Bytes.
        rows: Of each way the preferred batch of those that fit, or the smallest if none does; the fastest first.
        learned: What cards have taught, if there were any.
        fixed_size: Why no other image size was tried; empty if others were.
    """

    target: Target
    memory: float
    rows: tuple[Row, ...]
    learned: Learned | None
    fixed_size: str

    @property
    def chosen(self) -> Row:
        """The row that changes the result least, and of those the fastest.

        Raises:
            UserError: Nothing fits; the message names the smallest.
        """
        fitting = [row for row in self.rows if row.fits]
        if fitting:
            return min(fitting, key=by_preference)
        least = min(self.rows, key=lambda row: row.need)
        raise UserError(
            f"nothing fits into {gigabytes(self.memory)}; the smallest needs {gigabytes(least.need)}: "
            f"{' '.join(least.overrides) or 'the config as it is'}; give more memory, a smaller image size or encoder"
        )

    def summary(self, overrides: Sequence[str]) -> str:
        """A sentence about the chosen row and the overrides that lead to it."""
        changes = " ".join(overrides) or "nothing is changed"
        return f"planned for {gigabytes(self.memory)} of {self.target.name}: {gigabytes(self.chosen.need)}; {changes}"


def find_target(name: str | None = None) -> Target:
    """The device of that name, default: the one that trainings take here; `cuda` may be one that is not here."""
    if name is not None and name.startswith("cuda") and not torch.cuda.is_available():
        return Target(True, torch.device("cpu"), "a CUDA GPU that is not here", CONSTANTS["cuda"])
    device = choose_device(name)
    if device.type == "cuda":
        return Target(True, device, device_name(device), CONSTANTS["cuda"])
    return Target(False, device, device_name(device), CONSTANTS["cpu"], process_memory())


def free_memory(target: Target) -> int:
    """Bytes that a training could take: of the GPU that is here, or of the machine.

    Raises:
        UserError: The GPU is not here.
    """
    if not target.on_cuda:
        return available_memory()
    if not target.is_here:
        raise UserError("--memory auto asks the GPU, and torch finds none here; give its memory, such as 12gb")
    return int(torch.cuda.mem_get_info(target.device)[0])


def plan(
    config: Any, memory: float | None = None, device: str | None = None, cards: Path | None = None, shown: bool = True
) -> Plan:
    """Find out which ways to train a config fit.

    Args:
        config: A loaded config; its `num_classes` is filled in if it is null.
        memory: Bytes; None takes what is free.
        device: That trains, as of `--device`; `cuda` may be one that is not here.
        cards: A folder with runs, whose result cards correct the constants of the device.
        shown: Whether progress is shown.

    Raises:
        UserError: No such device or folder, or `memory` is None for a GPU that is not here.
        ConfigError: The config trains nothing that a plan knows.
    """
    target = find_target(device)
    learned = None if cards is None else learn(target.constants, target.name, cards)
    if learned is not None:
        target = replace(target, constants=learned.constants)
    memory = free_memory(target) if memory is None else memory
    ways, sizes, fixed_size = measure_ways(config, target, timed=target.is_here, shown=shown)
    rows = sorted((way.best(size, memory) for way in ways for size in sizes), key=by_time)
    return Plan(target, memory, tuple(rows), learned, fixed_size)


def measure_ways(config: Any, target: Target, timed: bool, shown: bool) -> "tuple[list[MeasuredWay], list[Size], str]":
    """Measure small steps of all ways to train a config.

    Args:
        config: A loaded config; its `num_classes` is filled in if it is null.
        target: What for.
        timed: Whether steps are timed too.
        shown: Whether progress is shown.

    Returns:
        The ways, the config's own first; the image sizes to try, likewise; and why there is no other size.
    """
    ways = list(variations(config))
    size = _prepare(config)
    rates: dict[str, float] = {}
    measured = []
    with progress("measuring small steps", len(ways), "ways", shown) as bar:
        for way in ways:
            if timed and way.precision not in rates:
                rates[way.precision] = operations_per_second(config, way, size, target.device)
            measured.append(_measure(config, way, size, target, rates.get(way.precision)))
            bar.advance()
    return measured, *_sizes(config, size)


def predict(config: Any, device: str | None = None) -> Row:
    """What a config takes as it is.

    Args:
        config: A loaded config.
        device: As of `plan`.

    Raises:
        UserError: As `plan`.
    """
    target, own = find_target(device), variation_of(config)
    size = _prepare(config)
    rate = operations_per_second(config, own, size, target.device) if target.is_here else None
    return _measure(config, own, size, target, rate).row(own_batch(config), size, math.inf)


def _prepare(config: Any) -> Size:
    """Fill in the number of classes, and find the size of the images."""
    with naming_mistakes():
        count_classes(config, ("train_dataloader",))
        return training_size(config)


@dataclass(frozen=True)
class MeasuredWay:
    """A way to train whose small steps are measured."""

    config: Any
    way: Variation
    size: Size
    target: Target
    steps: StepModel
    fixed: FixedCost
    rate: float | None  # operations in a second

    def best(self, size: Size, memory: float) -> Row:
        """Of the batches that fit the preferred one; the smallest if none does."""
        rows = self.rows(size, memory)
        fitting = [row for row in rows if row.fits]
        return min(fitting, key=by_preference) if fitting else min(rows, key=lambda row: row.need)

    def rows(self, size: Size, memory: float) -> list[Row]:
        """A row of each batch."""
        return [self.row(batch, size, memory) for batch in batches(self.config)]

    def row(self, batch: tuple[int, int], size: Size, memory: float) -> Row:
        """One row: a batch of images and its accumulation."""
        constants = self.target.constants
        tensors = self.fixed.peak(self.steps.activations(batch[0], size), accumulates=batch[1] > 1)
        used = constants.memory(tensors)
        need = used + (constants.outside if self.target.on_cuda else self.target.held)
        seconds = None
        if self.rate is not None:
            seconds = self.steps.operations(batch[0], size) / self.rate / batch[0] * constants.seconds
        changes = changes_of(self.way, variation_of(self.config), size, self.size)
        overrides = overrides_for(self.config, self.way, batch, None if size == self.size else size)
        return Row(*batch, size, self.way, used, need, seconds, overrides, changes, need <= memory)


def _measure(config: Any, way: Variation, size: Size, target: Target, rate: float | None) -> MeasuredWay:
    steps = model_steps(config, way, size, target.device, target.on_cuda)
    return MeasuredWay(config, way, size, target, steps, count_fixed(config, way, target.on_cuda), rate)


def _sizes(config: Any, size: Size) -> tuple[list[Size], str]:
    """The image sizes to try, the config's first, and why there is no other."""
    path = Path(config.filename or "")
    if not path.is_file() or "_image_size" not in read_config_file(path)[0]:
        return [size], "the config has no variable _image_size"
    unit = side_unit(model_settings(config, variation_of(config)))
    smaller = [tuple(int(side * factor) // unit * unit for side in size) for factor in _SMALLER]
    found = [each for each in dict.fromkeys(smaller) if min(each) > 0 and each != size]
    return [size, *found], "" if found else f"there is none below it that is a multiple of {unit} pixels"  # type: ignore[list-item]
