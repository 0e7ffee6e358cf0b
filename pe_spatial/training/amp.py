"""bfloat16 mixed precision that works on CPU and CUDA alike (mmengine's AmpOptimWrapper is CUDA only)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from pe_spatial.common.devices import multiplies_in_bfloat16


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Runs the forward pass under bfloat16 autocast; weights, gradients and optimizer stay float32.

    bfloat16 has float32's range, so there is no loss scaling.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the model's parameters."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


def evaluation_autocast(config: Any, device: torch.device) -> torch.autocast:
    """The autocast context that mmengine's test loop uses for this config: `test_cfg.fp16` switches it on.

    A CPU knows bfloat16 only.
    """
    loop = config.get("test_cfg") or config.get("val_cfg") or {}
    dtype = evaluation_dtype(config) if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=loop.get("fp16", False))


def evaluation_dtype(config: Any) -> torch.dtype:
    """The type that `fp16` stands for on CUDA: that of the training, else the process's."""
    is_bfloat16 = (config.get("optim_wrapper") or {}).get("type") == "Bf16OptimWrapper"
    return torch.bfloat16 if is_bfloat16 else torch.get_autocast_dtype("cuda")


def precision_for(name: str | None, device: torch.device) -> str | None:
    """What `--precision` stands for on a device: `auto` is bf16 where that is faster, else fp32."""
    if name != "auto":
        return name
    return "bf16" if multiplies_in_bfloat16(device) else "fp32"


def compute_in(config: Any, precision: str | None, device: torch.device) -> None:
    """Write a precision into a config, where evaluation looks for it.

    On CUDA, bf16 becomes the autocast type of this process.

    Args:
        config: Of the model; its `test_cfg` is changed.
        precision: What `precision_for` tells; None changes nothing.
        device: On which the model computes.
    """
    if precision is None:
        return
    if precision == "bf16" and device.type == "cuda":
        torch.set_autocast_dtype("cuda", torch.bfloat16)
    config.test_cfg = {**(config.get("test_cfg") or config.get("val_cfg") or {}), "fp16": precision == "bf16"}
