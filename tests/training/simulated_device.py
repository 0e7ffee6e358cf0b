"""A device called `simulated`: tensors on it compute on the CPU, but must not be mixed with tensors that are not on it.

What forgets to move a tensor works on a CPU and fails on CUDA. Here it fails on any machine, with CUDA's rules: tensors
of one operation are on one device, apart from scalars, copies, and indices on the CPU. Values are those of the CPU.
Registering a device cannot be undone, so `register` belongs in a process of its own.
"""

import contextlib

import torch
from mmengine.structures import InstanceData
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "simulated:0"
IS_POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # experimental in torch

aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class SimulatedTensor(torch.Tensor):
    """Says that it is on the device; its values are those of `inner`, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    if there and func not in _COPIES:
        _check_devices(func, args, [tensor for tensor in tensors if not isinstance(tensor, SimulatedTensor)])
    if func is aten._fused_sdp_choice.default and there:
        return 0  # the plain formula: fused kernels have another name on every device
    device = kwargs.get("device")
    if device is not None:
        goes_there = torch.device(device).type == torch.device(DEVICE).type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    else:
        goes_there = isinstance(args[0], SimulatedTensor) if func in _COPIES else bool(there)
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if not goes_there:
        return out
    out = tree_map(lambda value: SimulatedTensor(value) if isinstance(value, torch.Tensor) else value, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


def _inner(value):
    return value.inner if isinstance(value, SimulatedTensor) else value


def _check_devices(func, args, others):
    if func in _INDEXED and isinstance(args[0], SimulatedTensor):
        others = [value for value in args[2:3] if not isinstance(value, SimulatedTensor)]  # not the indices
    shapes = [tuple(tensor.shape) for tensor in others if tensor.dim()]
    if shapes:
        raise RuntimeError(f"{func}: tensors on {DEVICE}, and on the CPU of the shapes {shapes}")


class _Dispatch(TorchDispatchMode):
    """Sees what creates tensors on the device, or brings them there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Replaces what torch does with a device before it dispatches, which only a device written in C++ can serve."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        first = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor) and device is not None:
            return func(first, dtype=kwargs.get("dtype")).to(device)
        if isinstance(first, SimulatedTensor):
            if func is torch.Tensor.new_tensor:
                return torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)).to(DEVICE)
            if func is torch.Tensor.tolist:
                return first.inner.tolist()
            if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
                args = (first, index, *args[2:])
        return func(*args, **kwargs)


def register():
    """Make the device known to this process."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16]

    backend_registration._setup_privateuseone_for_python_backend(rename="simulated", backend_module=Module())
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")  # autocast computes as without it
    library.fallback(torch.library.fallthrough_kernel)
    _kept.append(library)
    # mmengine lists the types of tensors that may be an index, which this is none of
    original = InstanceData.__getitem__
    InstanceData.__getitem__ = lambda self, item: original(self, _inner(item))


_kept = []  # a library that is collected takes its kernels along


@contextlib.contextmanager
def simulating():
    """Tensors may be brought to the device."""
    with _Dispatch(), _Functions():
        yield
