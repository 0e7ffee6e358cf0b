"""A model whose weights come from a file: built without the time of random ones, filled without a second copy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RANDOM = {
    getattr(Tensor, name)
    for name in ("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_")
}
# the second half of the truncated normal distribution, as slow as its first half
_RANDOM.add(Tensor.erfinv_)


class SkipInitialization(TorchFunctionMode):
    """A context in which modules leave their parameters as the memory that they found.

    It stands in for `torch.nn.utils.skip_init`, which takes single modules, and for building on the device "meta",
    which loses buffers that are not in the state dict. Buffers and other tensors are computed as ever. Every parameter
    must be loaded afterwards.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Run a function of torch, unless it only draws or sets the values of a parameter."""
        if func in _RANDOM or getattr(func, "__module__", None) == "torch.nn.init":
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, nn.Parameter) or isinstance(getattr(target, "_base", None), nn.Parameter):
                return target
        return func(*args, **(kwargs or {}))


def adopt_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict into a module on the CPU, which takes over the tensors that are of its types.

    Views of a mapped file stay views: their pages are read when they are used, and become private where they are
    written to. What is of another type is cast. A parameter that has several names stays one: such a module is given
    copies. Whether the weights learn stays as it is.

    Args:
        module: On the CPU or the meta device.
        state: All keys of its state dict, in their shapes.

    Raises:
        RuntimeError: Keys or shapes that are not those of the module.
    """
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    is_tied = len(names) > len(list(module.parameters()))
    own = module.state_dict()
    cast = {
        key: value.to(own[key].dtype) if key in own and isinstance(value, Tensor) else value
        for key, value in state.items()
    }
    module.load_state_dict(cast, assign=not is_tied)
