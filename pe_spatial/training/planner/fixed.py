"""What a training holds whatever its images are: weights, gradients and the states of the optimizer, by counting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIMIZERS
from torch import nn

from pe_spatial.training.planner.tracking import teachers_of
from pe_spatial.training.planner.variation import Variation, build_model, model_settings


@dataclass(frozen=True)
class FixedCost:
    """Bytes.

    Args:
        weights: With buffers, and their moving averages if there are any; and those of teachers.
        gradients: Of what is trained.
        states: Of the optimizer.
        scratch: What a step of the optimizer needs beside them.
    """

    weights: int
    gradients: int
    states: int
    scratch: int

    def peak(self, activations: float, accumulates: bool) -> float:
        """The most that an iteration holds, given what its forward and backward pass holds at once.

        Gradients are there from one iteration to the next only where they are accumulated; otherwise they grow while
        activations go, so that the larger of the two counts.
        """
        lasting = self.weights + self.states
        passes = activations + self.gradients if accumulates else max(activations, self.gradients)
        return lasting + max(passes, self.gradients + self.scratch)


def count_fixed(config: Any, variation: Variation, on_cuda: bool) -> FixedCost:
    """Count for a variation of a config; its model takes no memory.

    Args:
        config: A loaded config.
        variation: Says what is trained.
        on_cuda: Whether the optimizer works on a group of weights at once, as it does on a GPU, or on one at a time.
    """
    model = build_model(model_settings(config, variation), "meta")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = _bytes(trained)
    weights = _bytes([*model.parameters(), *model.buffers()])
    taught = sum(_bytes([*teacher.parameters()]) for teacher in teachers_of(model))
    hooks = [*(config.get("default_hooks") or {}).values(), *(config.get("custom_hooks") or [])]
    copies = 1 + any("EMAHook" in hook["type"] for hook in hooks if hook)
    at_once = max(map(_bytes, _groups(config, model, trained))) if on_cuda else 2 * max(_bytes([p]) for p in trained)
    return FixedCost(weights * copies + taught, gradients, int(gradients * _states_of(config)), at_once)


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _groups(config: Any, model: nn.Module, trained: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    wrapper = config.optim_wrapper
    kind = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper.get("constructor") or "")
    if not hasattr(kind, "parameter_groups"):
        return [trained]
    settings = {key: value for key, value in wrapper.items() if key not in ("constructor", "paramwise_cfg")}
    return [group["params"] for group in kind(settings, wrapper.get("paramwise_cfg")).parameter_groups(model)]


def _states_of(config: Any) -> float:
    """Bytes of the optimizer's states for one byte of weights: 2 for AdamW."""
    weight = nn.Parameter(torch.zeros(64, 64))
    weight.grad = torch.zeros_like(weight)
    optimizer = OPTIMIZERS.build({**config.optim_wrapper.optimizer, "params": [weight]})
    optimizer.step()
    states = [state for state in optimizer.state[weight].values() if isinstance(state, torch.Tensor) and state.ndim]
    return _bytes(states) / _bytes([weight])
