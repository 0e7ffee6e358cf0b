"""Values of a config against what their constructors say they take.

Nothing that may work is refused: a value is wrong only where it is none of the annotated kinds, all of which are known,
or where it is a word although the default is a number or a truth value.
"""

import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from numbers import Number
from typing import Any, Literal, NamedTuple, TypeGuard, Union, get_args, get_origin

from mmengine.config import Config
from torch import Tensor, nn

from pe_spatial.common.errors import few

_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))
_NUMBERS = (int, float)
_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    Number: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}
# what third parties take although their annotations say something else
_KNOWN_BETTER = {("RandomErasing", "value"), ("Runner", "log_level")}
# option of a third party -> least and largest value
_RANGES: dict[str, tuple[float, float]] = {
    "lr": (0, 1e9),
    "weight_decay": (0, 1e9),
    "max_iters": (1, 2**40),
    "val_interval": (1, 2**40),
    "val_begin": (1, 2**40),
    "batch_size": (1, 2**16),
    "num_workers": (0, 2**10),
    "prefetch_factor": (1, 2**16),
    "timeout": (0, 2**31),
    "accumulative_counts": (1, 2**20),
    "window_size": (1, 2**20),
    "seed": (0, 2**32 - 1),
    "max_norm": (0, math.inf),
    "base_batch_size": (1, 2**31),
}
_LARGEST = 2**63 - 1
# entries that no constructor describes
_KINDS: dict[str, Any] = {
    "randomness.seed": int | None,
    "sync_bn": Literal["torch", "mmcv"] | None,
    "activation_checkpointing": str | list[str] | None,
    "compile": bool | dict[str, Any],
    "find_unused_parameters": bool,
    "env_cfg.cudnn_benchmark": bool,
    "env_cfg.dist_cfg.timeout": float,
    "custom_imports": dict[str, Any] | None,
    "model_wrapper_cfg": dict[str, Any] | None,
    "auto_scale_lr": dict[str, Any] | None,
    "custom_imports.imports": str | list[str],
    "custom_imports.allow_failed_imports": bool,
    "log_level": int | Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    "optim_wrapper.clip_grad.max_norm": float,
    "optim_wrapper.clip_grad.norm_type": float,
    "env_cfg": dict[str, Any],
    "env_cfg.mp_cfg": dict[str, Any],
    "env_cfg.mp_cfg.opencv_num_threads": int,
    "env_cfg.resource_limit": int,
    "randomness": dict[str, Any],
    "experiment_name": str | None,
    "efficient_conv_bn_eval": str | list[str] | None,
    **{f"{kind}_dataloader.dataset.data_prefix": dict[str, str] | None for kind in ("train", "val", "test")},
    "auto_scale_lr.enable": bool,
    "auto_scale_lr.base_batch_size": int,
}


class Option(NamedTuple):
    """What a constructor says about one of its arguments."""

    owner: type | Callable[..., Any]
    annotation: Any
    default: Any


@cache
def options_of(factory: Callable[..., Any]) -> dict[str, Option]:
    """The arguments of a function or a constructor that can be told, following `**kwargs` up the classes."""
    found: dict[str, Option] = {}
    for owner in inspect.getmro(factory) if inspect.isclass(factory) else (factory,):
        function = vars(owner).get("__init__") if inspect.isclass(owner) else owner
        if function is None or owner is object:
            continue
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):
            return found
        for name, parameter in parameters.items():
            found.setdefault(name, Option(owner, _resolved(parameter.annotation, function), parameter.default))
        if inspect.Parameter.VAR_KEYWORD not in {parameter.kind for parameter in parameters.values()}:
            return found
    return found


def _resolved(annotation: Any, function: Any) -> Any:
    """An annotation, which may be written as text; Any where it cannot be told."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    try:
        return typing.get_type_hints(holder, getattr(inspect.unwrap(function), "__globals__", {}))["value"]
    except (TypeError, NameError, AttributeError, SyntaxError):
        return Any


def entry_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) for values of the wrong kind that no constructor describes."""
    for path, kind in _KINDS.items():
        node: Any = config
        *sections, last = path.split(".")
        for section in sections:
            node = node.get(section) if isinstance(node, dict | Config) else None
        if isinstance(node, dict | Config) and last in node and not fits(node[last], kind):
            yield path, f"{node[last]!r} is not {in_words(kind)}"
        elif isinstance(node, dict | Config) and _is_number(node.get(last)):
            low, high = _RANGES.get(last, (-math.inf, math.inf))
            if not low <= node[last] <= high:
                yield path, f"{node[last]} is not from {low} to {high}"


def value_problem(factory: Callable[..., Any] | None, name: str, value: Any) -> str:  # noqa: ANN401 - of a config
    """What is wrong with the value of an option; empty where nothing is, or where nobody can tell."""
    option = None if factory is None else options_of(factory).get(name)
    if option is None or not isinstance(value, _PLAIN) or value == option.default:
        return ""
    if (getattr(option.owner, "__name__", ""), name) in _KNOWN_BETTER:
        return ""
    if value is None and (name == "num_classes" or (not _is_ours(option.owner) and name not in _RANGES)):
        return ""  # `count_classes` fills it in; and often taken for "the default" without being annotated
    annotation = _kind_of_default(option.default, value) if option.annotation is Any else option.annotation
    if not fits(value, annotation):
        return f"{value!r} is not {in_words(annotation)}"
    if _is_number(value):
        return _out_of_range(name, value, option)
    return ""


def takes_integers(factory: Callable[..., Any] | None, name: str) -> bool:
    """Whether an option is an integer, or an integer or nothing."""
    option = None if factory is None else options_of(factory).get(name)
    if option is None:
        return False
    kind = type(option.default) if option.annotation is Any else option.annotation
    return kind is int or set(get_args(kind)) == {int, type(None)}


def _is_ours(owner: Any) -> bool:
    return str(getattr(owner, "__module__", "")).partition(".")[0] == "pe_spatial"


def _kind_of_default(default: Any, value: Any) -> Any:
    """The kind of an option without an annotation: that of its default, if a word stands where none did."""
    kind = type(default)
    return kind if kind in (int, float, bool) and isinstance(value, str) else Any


def _out_of_range(name: str, value: float, option: Option) -> str:
    low, high = (-math.inf, math.inf) if _is_ours(option.owner) else _RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{value} is too large; give less than 2^63"
    return "" if low <= value <= high else f"{value} is not from {low} to {high}"


def fits(value: Any, kind: Any) -> bool:  # noqa: ANN401 - values and annotations
    """Whether a value of a config may be of an annotated kind."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    base = origin or kind
    if kind is type(None):
        return value is None
    if value is None:
        return kind not in _WORDS and not _is_container(base) and base not in (Tensor, nn.Module)
    if kind is bool:
        return isinstance(value, bool) or (isinstance(value, _NUMBERS) and value in (0, 1))
    if kind is int:
        return _is_number(value) and (isinstance(value, int) or value.is_integer())
    if kind in (float, Number):
        return _is_number(value) and value == value  # NaN is not
    if kind is str:
        return isinstance(value, str)
    if inspect.isclass(base) and _is_container(base):
        return _fits_container(value, base, arguments)
    if inspect.isclass(base) and issubclass(base, os.PathLike):
        return isinstance(value, str)
    if inspect.isclass(base) and _is_built(base):
        return isinstance(value, list | tuple | dict)
    return True


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def _is_built(base: type) -> bool:
    """Whether what is of a class is never written as a plain value, but built from a section."""
    return issubclass(base, (Tensor, nn.Module)) or base.__module__.startswith(("mmengine.", "torch.utils.data"))


def _is_container(base: Any) -> bool:
    plain = inspect.isclass(base) and issubclass(base, Collection) and not issubclass(base, str | bytes | Tensor)
    return plain and base.__module__ in ("builtins", "collections.abc", "typing")


def _fits_container(value: Any, base: type, arguments: tuple[Any, ...]) -> bool:
    if issubclass(base, Mapping):
        of = arguments[1] if arguments and arguments[1] in _WORDS else Any  # others may be built from sections
        return isinstance(value, dict) and all(fits(each, of) for each in value.values())
    if isinstance(value, dict):
        return True  # what is built from it may be a container
    if not isinstance(value, list | tuple):
        return False
    if base is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def in_words(kind: Any) -> str:  # noqa: ANN401 - annotations
    """An annotated kind for a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    base = origin or kind
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(in_words, arguments)))
    if origin is Literal:
        return f"one of {few(arguments, 10)}"
    if kind in _WORDS:
        return _WORDS[kind]
    if inspect.isclass(base) and issubclass(base, Mapping):
        return "a section"
    if inspect.isclass(base) and _is_container(base):
        count = f" of {len(arguments)}" if base is tuple and arguments and arguments[-1] is not Ellipsis else ""
        return f"a list{count}" + (f", each {in_words(arguments[0])}" if arguments else "")
    if inspect.isclass(base) and issubclass(base, os.PathLike):
        return "a path"
    return (
        "a section" if inspect.isclass(base) and issubclass(base, nn.Module) else f"a {getattr(base, '__name__', base)}"
    )
