"""Whether the state in a checkpoint fits the training that is to go on from it: the same entries, each of its kind.

A value of another kind would end the run in the middle of a step, or change it without a word.
"""

import math
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.optim import Optimizer

from pe_spatial.common.errors import CheckpointError, few

_LIKE_PARAMETERS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # of torch's optimizers: as large as the parameter

_PROGRESS = ("base_values", "last_step", "_global_step")  # of every scheduler of mmengine


def check_state(checkpoint: Mapping[str, Any], runner: Runner, path: Path) -> None:
    """Refuse the state of an optimizer or a scheduler that is not one of this runner's.

    Raises:
        CheckpointError: Names the entries.
    """
    problems: list[str] = []
    if isinstance(runner.optim_wrapper, OptimWrapper):
        optimizer = runner.optim_wrapper.optimizer
        problems += _misfits(checkpoint["optimizer"], runner.optim_wrapper.state_dict(), "optimizer")
        problems += _state_misfits(checkpoint["optimizer"].get("state"), optimizer)
    found, schedulers = checkpoint.get("param_schedulers", []), runner.param_schedulers
    if not isinstance(found, list | tuple):
        problems.append(f"param_schedulers is a {type(found).__name__}")
    elif isinstance(schedulers, list):
        for index, (scheduler, state) in enumerate(zip(schedulers, found, strict=False)):
            where, new = f"param_schedulers.{index}", scheduler.state_dict()
            if not isinstance(state, Mapping):
                problems.append(f"{where} is a {type(state).__name__}")
                continue
            # another kind of schedule, which the config may ask for now, has other entries of its own
            problems += _misfits(state, {key: new[key] for key in new if key in state or key in _PROGRESS}, where)
    if problems:
        raise CheckpointError(
            f"{path}: its state does not fit this training ({few(problems)}): it is damaged, or it was written "
            "with another optimizer or schedule; use another checkpoint, or start from its weights with load_from"
        )


def _misfits(found: Any, expected: Any, where: str) -> Iterator[str]:  # noqa: ANN401 - nested containers
    """What is missing, or of another kind than what stands in its place in a new state."""
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping):
            yield f"{where} is a {type(found).__name__}"
            return
        for key, value in expected.items():
            if key in found:
                yield from _misfits(found[key], value, f"{where}.{key}")
            elif not (value is None or isinstance(value, bool)):  # switches that an earlier torch did not know
                yield f"{where}.{key} is missing"
    elif where.endswith(".params"):
        if found != expected:
            yield f"{where} are not the {len(expected)} parameters of this model"
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            yield f"{where} is not a list of {len(expected)}"
            return
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from _misfits(*pair, f"{where}.{index}")
    elif not _is_alike(found, expected):
        yield f"{where} is {str(found)[:40]!r}"


def _is_alike(found: Any, expected: Any) -> bool:  # noqa: ANN401 - any value
    if expected is None or isinstance(expected, bool):
        return found is None or isinstance(found, bool) or (expected is None and _is_number(found))
    if isinstance(expected, Real):
        return _is_number(found)
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and found.shape == expected.shape
    return not isinstance(expected, str) or isinstance(found, str)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _state_misfits(state: Any, optimizer: Optimizer) -> Iterator[str]:  # noqa: ANN401 - whatever was saved
    """What is wrong with what an optimizer remembers of each parameter; one that got no gradient has nothing."""
    groups = [group["params"] for group in optimizer.param_groups]
    parameters = [(number, parameter) for number, group in enumerate(groups) for parameter in group]
    if not isinstance(state, Mapping):
        return  # is named already
    names: dict[int, set[str]] = {}
    for index, entry in state.items():
        where = f"optimizer.state.{index}"
        if type(index) is not int or not 0 <= index < len(parameters) or not isinstance(entry, Mapping):
            yield f"{where} belongs to no parameter"
            continue
        group, parameter = parameters[index]
        if entry and names.setdefault(group, set(entry)) != set(entry):
            yield f"{where} has other entries than its group"
        for name, value in entry.items():
            is_like = name in _LIKE_PARAMETERS and type(optimizer).__module__.startswith("torch.optim")
            is_step = name == "step"
            if is_like and not (isinstance(value, Tensor) and value.shape == parameter.shape):
                yield f"{where}.{name} is not a tensor of the shape {list(parameter.shape)}"
            elif is_step and not (_is_number(value) or (isinstance(value, Tensor) and value.numel() == 1)):
                yield f"{where}.{name} is {str(value)[:40]!r}"
