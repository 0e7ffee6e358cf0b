"""What to do when memory runs out: the cheapest changes, with what each is predicted to take."""

import gc
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pe_spatial.common.errors import NotEnoughMemory, UserError
from pe_spatial.common.memory import gigabytes
from pe_spatial.training.planner.planning import find_target, measure_ways
from pe_spatial.training.planner.rows import Row, by_preference, own_batch

_NUMBER = 3
_LESS = 0.9  # of the prediction for the config: what is hardly less may fail again
_ON_CPU = ("can't allocate memory", "not enough memory", "bad_alloc")
# where nothing can be measured
_UNMEASURED = (
    "a smaller train_dataloader.batch_size with a larger optim_wrapper.accumulative_counts",
    "model.backbone.checkpointing=true (of an alignment: model.student.checkpointing=true)",
    "optim_wrapper.type=Bf16OptimWrapper",
)


@contextmanager
def naming_exhaustion(config: Any) -> Iterator[None]:
    """In the block, memory that runs out ends in an error that names the cheapest changes.

    Args:
        config: What is trained.

    Raises:
        NotEnoughMemory: The device, or the machine, has no memory left.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, UserError) or not is_exhaustion(error):
            raise
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise NotEnoughMemory(f"the memory is exhausted ({reason}); {remedies(config)}")


def is_exhaustion(error: BaseException) -> bool:
    """Whether an error says that no memory is left, on a GPU or on the CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _ON_CPU)


def remedies(config: Any) -> str:
    """The cheapest changes, to copy."""
    try:
        now, rows = _alternatives(config)
    except Exception as error:  # noqa: BLE001 - whatever hinders a measurement, the memory is what the user must hear of
        return f"lower it with one of: {'; '.join(_UNMEASURED)} (nothing is predicted: {error})"
    if not rows:
        return f"{gigabytes(now.need)} are predicted, and no other way takes less; use a smaller encoder or image size"
    lines = [f"  {gigabytes(row.need)}  {shlex.join(row.overrides)}" for row in rows]
    return "\n".join([f"{gigabytes(now.need)} are predicted; the cheapest changes, with what each takes:", *lines])


def _alternatives(config: Any) -> tuple[Row, list[Row]]:
    """What the config is predicted to take, and the cheapest ways that take less, each with changes of other kinds."""
    target = find_target()
    ways, sizes, _ = measure_ways(config, target, timed=False, shown=False)
    now = ways[0].row(own_batch(config), sizes[0], float("inf"))
    whole = torch.cuda.mem_get_info(target.device)[1] if target.on_cuda else float("inf")
    rows = [row for way in ways for size in sizes for row in way.rows(size, whole)]
    rows = [row for row in rows if row.fits and row.memory <= _LESS * now.memory]
    found: dict[frozenset[str], Row] = {}
    for row in sorted(rows, key=lambda row: (row.changes, len(_kinds(row)), by_preference(row))):
        found.setdefault(_kinds(row), row)
    return now, list(found.values())[:_NUMBER]


def _kinds(row: Row) -> frozenset[str]:
    """The settings that a row changes, without those that only follow from the batch."""
    keys = {override.partition("=")[0] for override in row.overrides}
    return frozenset(
        key for key in keys if key.startswith(("train_dataloader", "model", "_image", "optim_wrapper.type"))
    )
