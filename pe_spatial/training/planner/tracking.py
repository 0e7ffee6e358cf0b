"""What a small step of training holds in memory beside its weights, how much it computes, and how long it takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
_ATTENTION = {  # of the CPU, which the registry of torch leaves out: products of matrices in each
    _aten._scaled_dot_product_flash_attention_for_cpu: 2,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: 5,
}
_PRODUCTS = {
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.convolution,
    _aten.convolution_backward,
    *_ATTENTION,
}
_OTHERS = {
    _aten.native_layer_norm,
    _aten.native_layer_norm_backward,
    _aten.gelu,
    _aten.gelu_backward,
    _aten.threshold_backward,
    torch.ops.torchvision.roi_align,
    torch.ops.torchvision._roi_align_backward,
}
_SMALL = 1_000_000  # elements; fewer are computed faster than their shape is found out


@dataclass(frozen=True)
class StepCost:
    """What a forward and a backward pass of a model take.

    Args:
        activations: Bytes at the worst moment, without weights, buffers and the gradients of weights.
        operations: Multiplications and additions in products of matrices and convolutions.
    """

    activations: float
    operations: float


class StepTracker(TorchDispatchMode):
    """Follows the bytes of all tensors that are made in its block, and of none that were there before.

    It counts storages as torch's own `torch.distributed._tools.mem_tracker.MemTracker` does. That one fails on frozen
    parameters, and keeps a history of every module, which takes most of its time.

    Large products and convolutions are not computed: their results are numbers around zero. What depends on values,
    such as the suppression of boxes, goes on as in the first steps of a training, and a step takes a tenth of its time.

    Args:
        model: The gradients of its parameters do not count.

    Attributes:
        current: Bytes that are held now.
        most: The most that were held at once.
        operations: Multiplications and additions so far.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.current = self.most = 0
        self.operations = 0.0
        self._model = model
        self._alive: dict[int, tuple[ref[Any], int]] = {}  # by the address of the storage
        self._hooks: list[Any] = []
        self._noise = 0.02 * torch.rand(65537, generator=torch.Generator().manual_seed(0)) - 0.01
        for part in (model, *teachers_of(model)):
            for tensor in (*part.parameters(), *part.buffers()):
                self._add(tensor.untyped_storage(), 0)

    def __enter__(self) -> "StepTracker":
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._leave_out_gradient)
            for parameter in self._model.parameters()
            if parameter.requires_grad
        ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or invent its result, and count what it has made."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet in _PRODUCTS | _OTHERS:
            made = self._replace(func, args, kwargs)
        else:
            made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._add(storage, storage.nbytes())
        self.most = max(self.most, self.current)
        return made

    def _replace(self, func: Any, args: Any, kwargs: Any) -> Any:
        packet, inputs = func._overloadpacket, [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        shapes = tree_map_only(Tensor, _shape_of, (args, kwargs))
        made = func(*shapes[0], **shapes[1])
        if packet in _PRODUCTS:
            self.operations += _operations(packet, args, kwargs, made)
        if max(tensor.numel() for tensor in inputs) < _SMALL:
            return func(*args, **kwargs)
        is_backward = packet.__name__.endswith("backward")
        return tree_map_only(Tensor, partial(self._invent, inputs[0].device, is_backward), made)

    def _invent(self, device: torch.device, is_gradient: bool, shape: Tensor) -> Tensor:
        made = torch.empty_strided(shape.size(), shape.stride(), dtype=shape.dtype, device=device)
        if is_gradient:  # nothing depends on its values
            return made
        flat = made.as_strided((made.numel(),), (1,))
        self._noise = self._noise.to(device)
        whole = len(flat) // len(self._noise) * len(self._noise)
        flat[:whole].view(-1, len(self._noise)).copy_(self._noise)
        flat[whole:].copy_(self._noise[: len(flat) - whole])
        return made

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = ref(storage, partial(self._remove, key)), size
            self.current += size

    def _remove(self, key: int, _: ref[Any]) -> None:
        self.current -= self._alive.pop(key)[1]

    def _leave_out_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._alive:
            alive, size = self._alive[key]
            self._alive[key] = alive, 0
            self.current -= size


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _operations(packet: Any, args: Any, kwargs: Any, made: Any) -> float:
    if packet in _ATTENTION:
        query, key = [leaf for leaf in args if isinstance(leaf, Tensor)][packet.__name__.endswith("backward") :][:2]
        return 2.0 * _ATTENTION[packet] * query.numel() * key.shape[-2]
    return float(flop_registry[packet](*args, **kwargs, out_val=made))


def teachers_of(model: nn.Module) -> list[nn.Module]:
    """The frozen models beside a model that teach it, which are no parts of it; there are none beside most."""
    return list(getattr(model, "teachers", {}).values())


def follow_step(model: nn.Module, step: Callable[[], Tensor]) -> StepCost:
    """Follow a forward and a backward pass.

    Args:
        model: In training mode; its gradients are gone afterwards.
        step: Runs the model and returns the loss.
    """
    model.zero_grad(set_to_none=True)
    with StepTracker(model) as tracker:
        step().backward()
    model.zero_grad(set_to_none=True)
    return StepCost(tracker.most, tracker.operations)


def time_step(model: nn.Module, step: Callable[[], Tensor]) -> float:
    """Seconds of the faster of two forward and backward passes; arguments as of `follow_step`."""
    device = next(model.parameters()).device
    seconds = []
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        step().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    model.zero_grad(set_to_none=True)
    return min(seconds)
