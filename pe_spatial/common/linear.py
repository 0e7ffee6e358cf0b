"""Linear layers, multiplied by whichever library of PyTorch is faster on this processor.

PyTorch multiplies matrices of float32 with MKL. MKL does not use the AVX-512 units of processors that are not Intel's.
oneDNN, which PyTorch has for convolutions, uses them: a layer of a Perception Encoder takes less than half the time on
an AMD EPYC (docs/measurements/training.md). The two differ in the last digits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pe_spatial.common.devices import processor_maker

_allowed = True
_FEW = 2**22  # multiplications of a layer below which the call costs what it saves


class Linear(nn.Linear):
    """`torch.nn.Linear` by the faster library; parameters and their names are the same."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [..., in_features] to [..., out_features]."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` by the faster library.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N], or None.

    Returns:
        [..., N].
    """
    if not takes_onednn(x, weight) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if wants_gradients(x, weight, bias):
        return _OneDNN.apply(x, weight, bias)
    return multiply(x, weight, bias)


def prefers_onednn() -> bool:
    """Whether oneDNN is the faster of both here: on an x86 processor with AVX-512 that is not Intel's."""
    return _allowed and _is_faster_with_onednn()


@contextmanager
def plain_operators() -> Iterator[None]:
    """Within it, linear layers and attention are PyTorch's own, in all threads, so that the two can be compared."""
    global _allowed  # noqa: PLW0603 - as torch's own switches are
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


@cache
def _is_faster_with_onednn() -> bool:
    has_units = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    return has_units and processor_maker() not in ("", "GenuineIntel")


def wants_gradients(*tensors: Tensor | None) -> bool:
    """Whether gradients of one of the tensors are recorded."""
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


def takes_onednn(x: Tensor, weight: Tensor, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> bool:
    """Whether oneDNN shall multiply two tensors [..., K] and [..., N, K] of the given types.

    That is so for many numbers of a CPU if nothing else is asked for: no trace, no mode that looks at the operators.
    """
    # the first is asked first, so that a compiler follows none of the rest
    if torch.compiler.is_compiling() or not prefers_onednn():
        return False
    if not (x.device.type == weight.device.type == "cpu" and x.dtype in dtypes and weight.dtype in dtypes):
        return False
    if x.numel() * weight.shape[-2] < _FEW:
        return False
    return not is_watched()


def is_watched() -> bool:
    """Whether a trace or a mode looks at the operators that are called."""
    # there are no public names for the first two
    watched = torch._C._len_torch_dispatch_stack() or torch._C._functorch.peek_interpreter_stack() is not None
    return bool(watched or torch.jit.is_tracing())


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `linear` by oneDNN, without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001 - as the compiler calls it


class _OneDNN(torch.autograd.Function):
    """The same with gradients, which are products of matrices too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if of_x else None,
            linear(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
