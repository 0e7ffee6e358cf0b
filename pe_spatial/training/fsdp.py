"""Fully sharded training (FSDP2) under an unmodified Runner.

`model_wrapper_cfg: {type: FullyShardedModel, units: [backbone.encoder.transformer.resblocks.*]}` switches it on.
mmengine initializes, loads and resumes plain tensors; right before the first iteration `FullyShardHook` replaces the
parameters by shards and points the optimizer at them. Checkpoints are gathered whole, so that they are
interchangeable with those of one process or of DDP. Evaluation without training runs unsharded.
"""

from fnmatch import fnmatchcase
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODEL_WRAPPERS
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pe_spatial.common.errors import ConfigError


@MODEL_WRAPPERS.register_module()
class FullyShardedModel(nn.Module):
    """Stands where mmengine expects a distributed wrapper; `shard` makes it one.

    Args:
        module: The model, whole on this rank's device.
        units: Patterns of submodule names, each sharded and gathered as one unit; what is left forms the last unit.
    """

    def __init__(self, module: nn.Module, units: list[str]) -> None:
        super().__init__()
        self.module = module
        self.units = units
        self.pending_optimizer_state: dict[str, Any] | None = None

    def shard(self, optim_wrapper: OptimWrapper) -> None:
        """Shard parameters, the optimizer's references to them, and its resumed state over all ranks.

        Raises:
            ConfigError: A pattern fits no submodule.
        """
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        device = next(self.module.parameters()).device.type
        mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
        for unit in [*self._find_units(), self.module]:
            fully_shard(unit, mesh=mesh)
        sharded = dict(self.module.named_parameters())
        for group in optim_wrapper.optimizer.param_groups:
            group["params"] = [sharded[names[id(parameter)]] for parameter in group["params"]]
        if self.pending_optimizer_state is not None:
            _shard_state(self.pending_optimizer_state, optim_wrapper)
            optim_wrapper.load_state_dict(self.pending_optimizer_state)
            self.pending_optimizer_state = None

    def _find_units(self) -> list[nn.Module]:
        found: dict[str, nn.Module] = {}
        for pattern in self.units:
            fitting = {name: module for name, module in self.module.named_modules() if fnmatchcase(name, pattern)}
            if not fitting:
                raise ConfigError(f"model_wrapper_cfg.units: no submodule of the model matches {pattern!r}")
            found |= fitting
        # `*` also fits names with dots: a module inside a unit belongs to that unit
        return [module for name, module in found.items() if not any(name.startswith(f"{other}.") for other in found)]

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """One training iteration of the model inside."""
        return self.module.train_step(data, optim_wrapper)  # type: ignore[operator]

    def val_step(self, data: Any) -> list[Any]:
        """Predictions of the model inside."""
        return self.module.val_step(data)  # type: ignore[operator]

    def test_step(self, data: Any) -> list[Any]:
        """Predictions of the model inside."""
        return self.module.test_step(data)  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the model inside."""
        return self.module(*args, **kwargs)


@HOOKS.register_module()
class FullyShardHook(Hook):
    """Shards a `FullyShardedModel` when mmengine has initialized or resumed it; does nothing to other models."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Shard."""
        if isinstance(runner.model, FullyShardedModel):
            if any(isinstance(hook, EMAHook) for hook in runner.hooks):
                raise ConfigError("EMAHook copies whole parameters and does not work with FullyShardedModel; use DDP")
            runner.model.shard(runner.optim_wrapper)


def _shard_state(state: dict[str, Any], optim_wrapper: OptimWrapper) -> None:
    """Replace the whole tensors of an optimizer's state by shards like those of their parameters."""
    parameters = [parameter for group in optim_wrapper.optimizer.param_groups for parameter in group["params"]]
    for index, entries in state["state"].items():
        parameter = parameters[index]
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[key] = distribute_tensor(
                    value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
                )


def gather_full(tree: Any) -> Any:
    """Nested containers with every sharded tensor made whole, on the CPU of the main process; None on the others.

    Collective: every rank calls it on the same tree. Plain tensors are passed through.
    """

    def whole(shards: DTensor) -> Tensor | None:
        full = shards.full_tensor()
        return full.cpu() if is_main_process() else None

    return apply_to(tree, lambda node: isinstance(node, DTensor), whole)
