"""What a device needs beside the tensors of a training, and how result cards of runs correct it."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from pe_spatial.common.errors import UserError
from pe_spatial.common.reading import read_text

CARD = "result.json"
ENTRY = "plan"  # of a card
_CREDIBLE = 5.0  # a ratio of measured and predicted beyond it comes from something else, such as another process


@dataclass(frozen=True)
class DeviceConstants:
    """How the tensors of a training become the memory that a device gives.

    Args:
        factor: On the tensors: rounding of the allocator, and blocks that it cannot use again.
        workspace: Bytes that libraries take once they have computed.
        outside: Bytes of the card that torch does not allocate, which no run measures.
        seconds: Factor on the time.
    """

    factor: float
    workspace: float
    outside: float
    seconds: float = 1.0

    def memory(self, tensors: float) -> float:
        """Bytes that a run will measure."""
        return self.factor * (tensors + self.workspace)


# cpu: code pages and buffers of oneDNN, by the table of docs/planner.md; cuda: usual figures, not measured
CONSTANTS = {
    "cpu": DeviceConstants(factor=1.0, workspace=50e6, outside=0.0),
    "cuda": DeviceConstants(factor=1.05, workspace=100e6, outside=800e6),
}


@dataclass(frozen=True)
class Learned:
    """Constants after some result cards.

    Args:
        constants: Corrected by the medians of measured over predicted.
        used: Cards of this device that had both numbers.
        left_out: Cards that had not, that are of another device, or whose numbers cannot belong together.
    """

    constants: DeviceConstants
    used: int
    left_out: int


def learn(constants: DeviceConstants, device: str, folder: Path) -> Learned:
    """Correct constants by the result cards below a folder.

    The median of the ratios does not follow single runs that shared their device.

    Args:
        constants: Of the kind of device, with which runs predict.
        device: Its name, as cards have it.
        folder: With runs somewhere below.

    Raises:
        UserError: No such folder, or no card in it.
    """
    if not folder.is_dir():
        raise UserError(f"--cards {folder}: no such folder; give a folder with finished runs, which contain a {CARD}")
    paths = sorted(folder.rglob(CARD))
    if not paths:
        raise UserError(f"--cards {folder}: it contains no {CARD}; a run writes one at its end")
    cards = [entry for path in paths if (entry := _entry_of(path, device)) is not None]
    memory = _ratios(cards, "memory_gb")
    seconds = _ratios(cards, "seconds_per_image")
    corrected = replace(
        constants,
        factor=constants.factor * (median(memory) if memory else 1.0),
        seconds=constants.seconds * (median(seconds) if seconds else 1.0),
    )
    used = max(len(memory), len(seconds))
    return Learned(corrected, used, len(paths) - used)


def _entry_of(path: Path, device: str) -> dict[str, Any] | None:
    """What the card of a run on this device says about its plan; a damaged card says nothing."""
    try:
        card = json.loads(read_text(path))
    except (ValueError, OSError, RecursionError):
        return None
    entry = card.get(ENTRY) if isinstance(card, dict) and card.get("device") == device else None
    return entry if isinstance(entry, dict) else None


def _ratios(cards: Sequence[dict[str, Any]], key: str) -> list[float]:
    found = []
    for card in cards:
        measured, predicted = card.get(f"measured_{key}"), card.get(f"predicted_{key}")
        if all(
            isinstance(value, int | float) and math.isfinite(value) and value > 0 for value in (measured, predicted)
        ):
            ratio = float(measured) / float(predicted)  # type: ignore[arg-type]
            if 1 / _CREDIBLE <= ratio <= _CREDIBLE:
                found.append(ratio)
    return found
