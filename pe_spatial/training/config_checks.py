"""Checks of a merged config against the registries and the signatures of what it builds."""

import inspect
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from pe_spatial.backbones.fine_maps import known_options
from pe_spatial.backbones.lora import LoraOptions
from pe_spatial.common.errors import ConfigError, OptionError, suggest
from pe_spatial.training.config_values import entry_problems, takes_integers, value_problem
from pe_spatial.training.optim import ParamwiseOptions
from pe_spatial.training.trust import REGISTRIES, may_import

# the registry of the `type` that stands directly in a section <- the keys that open such sections
_SECTIONS_OF = {
    "MODELS": ("model", "data_preprocessor"),
    "DATASETS": ("dataset",),
    "DATA_SAMPLERS": ("sampler", "batch_sampler"),
    "TRANSFORMS": ("pipeline",),
    "FUNCTIONS": ("collate_fn", "worker_init_fn"),
    "OPTIM_WRAPPERS": ("optim_wrapper",),
    "OPTIMIZERS": ("optimizer",),
    "PARAM_SCHEDULERS": ("param_scheduler",),
    "HOOKS": ("default_hooks", "custom_hooks"),
    "METRICS": ("val_evaluator", "test_evaluator"),
    "VISUALIZERS": ("visualizer",),
    "VISBACKENDS": ("vis_backends",),
    "MODEL_WRAPPERS": ("model_wrapper_cfg",),
    "LOOPS": ("train_cfg", "val_cfg", "test_cfg"),
    "LOG_PROCESSORS": ("log_processor",),
}
_SECTIONS = {key: registry for registry, keys in _SECTIONS_OF.items() for key in keys}
# keys that mmengine takes out of a section before it calls the constructor
_CONSUMED = {
    "HOOKS": {"priority"},
    "PARAM_SCHEDULERS": {"convert_to_iter_based"},
    "OPTIM_WRAPPERS": {"constructor", "paramwise_cfg", "optimizer"},
    "LOOPS": {"by_epoch"},
}
_LOADER = (DataLoader, {"dataset", "sampler", "batch_sampler", "num_batch_per_epoch", "disable_subprocess_warning"})
# sections whose constructor is not named in them -> what takes their keys, and further keys
_IMPLIED: dict[str, tuple[Callable[..., Any] | None, Set[str]]] = {
    "train_cfg": (IterBasedTrainLoop, {"by_epoch"}),
    "val_cfg": (ValLoop, set()),
    "test_cfg": (TestLoop, set()),
    "train_dataloader": _LOADER,
    "val_dataloader": _LOADER,
    "test_dataloader": _LOADER,
    "randomness": (Runner.set_randomness, set()),
    "log_processor": (LogProcessor, set()),
    "optim_wrapper": (OptimWrapper, _CONSUMED["OPTIM_WRAPPERS"]),
    "optim_wrapper.paramwise_cfg": (ParamwiseOptions, set()),
    "model.backbone.lora": (LoraOptions, set()),
    "env_cfg": (None, {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"}),
    "custom_imports": (None, {"imports", "allow_failed_imports"}),
    "auto_scale_lr": (None, {"base_batch_size", "enable"}),
}
# keys of sections that say what is built -> whether one such section stands there, a list of them, or either; a "plain"
# one may do without a type, for a prediction and a conversion read it and build nothing of it
_TYPED: dict[str, str] = {
    "pipeline": "list",
    "custom_hooks": "list",
    "vis_backends": "list",
    "param_scheduler": "either",
    "val_evaluator": "either",
    "test_evaluator": "either",
    "dataset": "plain",
    "model": "one",
    "optimizer": "one",
    "data_preprocessor": "one",
}
_CLIP_GRAD = {"type", "max_norm", "norm_type", "error_if_nonfinite", "foreach", "clip_value"}
TOP_LEVEL_KEYS = frozenset(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"} | {
    "custom_imports",
    "model_wrapper_cfg",
    "sync_bn",
    "find_unused_parameters",
    "compile",
    "activation_checkpointing",
    "efficient_conv_bn_eval",
}


def find_problems(config: Any) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong with it) for everything that is misspelled, unknown or of another kind.

    Whole numbers that are written as 1e3 become integers, in place, where a constructor takes integers.
    """
    for key in config:
        if key not in TOP_LEVEL_KEYS:
            yield key, f"unknown key; {suggest(key, TOP_LEVEL_KEYS)} (a variable of your own begins with _)"
        elif problem := value_problem(Runner, key, config[key]):
            yield key, problem
    yield from entry_problems(config)
    scope = config.get("default_scope", "mmengine")
    if not isinstance(scope, str):
        return  # is named above
    for key, value in config.items():
        yield from _untyped(value, [key])
        yield from _walk(value, [key], _SECTIONS.get(key), scope)


def _walk(node: Any, path: list[str], registry: str | None, scope: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _walk(item, [*path, str(index)], registry, scope)
    if isinstance(node, dict) and path[-1] == "clip_grad":
        for key in node.keys() - _CLIP_GRAD:
            yield ".".join([*path, str(key)]), f"clip_grad has no option {key!r}; {suggest(str(key), _CLIP_GRAD)}"
        return
    if isinstance(node, dict) and path[-1] == "upsampling":
        yield from _upsampling(node, path)
        return
    if not isinstance(node, dict):
        return
    options = _implied_options(path, node)
    factory_name, factory = path[-1], _implied_factory(path, node)
    if isinstance(node.get("type"), str):
        factory_name = node["type"]
        factory, problem = _resolve(factory_name, registry, scope)
        if problem:
            yield ".".join([*path, "type"]), problem
            options = factory = None
        elif factory is not None:
            options = _options(factory)
            if options is not None:
                options = options | _CONSUMED.get(registry or "", set()) | {"type", "_scope_"}
    for key, value in node.items():
        if options is not None and key not in options:
            yield ".".join([*path, str(key)]), _unknown(factory_name, str(key), options)
        elif problem := value_problem(factory, key, value):
            yield ".".join([*path, str(key)]), problem
        elif isinstance(value, float) and takes_integers(factory, key):
            node[key] = int(value)  # such as 1e3, which has been found to be whole
        is_constructor = key == "constructor" and path[-1] == "optim_wrapper" and isinstance(value, str)
        if is_constructor and (problem := _resolve(value, "OPTIM_WRAPPER_CONSTRUCTORS", scope)[1]):
            yield ".".join([*path, key]), problem
        yield from _untyped(value, [*path, str(key)])
        # the registry of a section holds for what is nested in it until another section begins
        yield from _walk(value, [*path, str(key)], _SECTIONS.get(key, registry), scope)


def _upsampling(node: dict[str, Any], path: list[str]) -> Iterator[tuple[str, str]]:
    """Of a backbone: its type is no registered name."""
    try:
        known = known_options(node.get("type"))
    except OptionError as error:
        yield ".".join([*path, "type"]), str(error)
        return
    for key in node.keys() - known:
        yield ".".join([*path, str(key)]), _unknown(node["type"], str(key), known)


def _unknown(factory_name: str, key: str, options: Set[str]) -> str:
    if key == "lora":  # what else takes no option of that name has no encoder to adapt
        return f"{factory_name} is not an encoder of pe_spatial, and LoRA adapts only a PEBackbone; remove lora"
    return f"{factory_name} has no option {key!r}; {suggest(key, options)}"


def _untyped(value: Any, path: list[str]) -> Iterator[tuple[str, str]]:
    """Where a section is expected that says what is built, and something else stands."""
    kind, where = _TYPED.get(path[-1]), ".".join(path)
    if kind is None or (path[-1] == "model" and len(path) > 1):
        return
    if kind in ("list", "either") and (value is None or isinstance(value, list | tuple)):
        places = {f"{where}.{index}": item for index, item in enumerate(value or ())}
    else:
        places = {} if kind == "list" else {where: value}  # no list: the kinds of values say so
    for place, item in places.items():
        if not isinstance(item, dict) or ("type" not in item and kind != "plain"):
            yield place, f"{item!r} is not a section with a type, the name of what is built"
        elif not isinstance(item.get("type", ""), str):
            yield f"{place}.type", f"{item['type']!r} is not the name of a class"


def require_dataset_types(config: Config, *loaders: str) -> None:
    """Refuse data that are to be built and do not say of what kind they are.

    Args:
        config: A loaded config.
        *loaders: Names of the dataloaders that are built; those that the config lacks do not count.

    Raises:
        ConfigError: Names the key.
    """
    for loader in loaders:
        for where, dataset in _datasets((config.get(loader) or {}).get("dataset"), f"{loader}.dataset"):
            if "type" not in dataset:
                raise ConfigError(
                    f"{config.filename or 'the config'}: {where} has no type, so its data cannot be read; set the "
                    f"class of the dataset, for example {where}.type=CocoInstances"
                )


def _datasets(node: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A dataset and those that it is made of, with their keys."""
    if isinstance(node, dict):
        yield where, node
        parts = node.get("datasets")
        inner = {f"datasets.{index}": part for index, part in enumerate(parts if isinstance(parts, list) else ())}
        for key, part in {**inner, "dataset": node.get("dataset"), "source": node.get("source")}.items():
            yield from _datasets(part, f"{where}.{key}")


def has_schema(path: Sequence[str], node: Any) -> bool:
    """Whether `find_problems` would notice a wrong key in this section."""
    return isinstance(node, dict) and ("type" in node or _implied_options(path, node) is not None)


def _implied_options(path: Sequence[str], node: dict[str, Any]) -> Set[str] | None:
    """The keys of sections whose constructor is not named in them."""
    if ".".join(path) not in _IMPLIED:
        return None
    factory, (_, further) = _implied_factory(path, node), _IMPLIED[".".join(path)]
    return further if factory is None else _options(factory, further)


def _implied_factory(path: Sequence[str], node: dict[str, Any]) -> Callable[..., Any] | None:
    """What takes the keys of a section that does not name its constructor."""
    if tuple(path) == ("train_cfg",) and node.get("by_epoch"):
        return EpochBasedTrainLoop
    return _IMPLIED.get(".".join(path), (None, frozenset()))[0]


def _resolve(name: str, registry: str | None, scope: str) -> tuple[Callable[..., Any] | None, str]:
    """What a `type` builds, or what is wrong with it."""
    if not all(part.isidentifier() for part in name.split(".")):
        return None, f"{name!r} is not the name of a class"
    preferred = [registry] if registry else []
    for key in [*preferred, *(key for key in REGISTRIES if key != registry)]:
        # "not registered" is a RuntimeError or None
        with REGISTRIES[key].switch_scope_and_registry(scope) as current, suppress(RuntimeError):
            factory = current.get(name)
            if factory is not None:
                return factory, ""
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        known = [key for each in preferred or REGISTRIES for key in _names(REGISTRIES[each])]
        return None, f"nothing called {name!r} is registered; {suggest(name, known)}"
    if not may_import(module_name):
        return None, f"{name} is nothing that a config may name"
    try:
        return None, f"{module_name} has no {attribute!r}; {suggest(attribute, dir(import_module(module_name)))}"
    except ImportError as error:
        return None, f"{module_name} cannot be imported: {error}"


def _names(registry: Registry) -> set[str]:
    names = set(registry.module_dict)
    for child in registry.children.values():
        names |= _names(child)
    return names


def _options(factory: Any, extra: Set[str] = frozenset()) -> Set[str] | None:
    names = signature_names(factory)
    return None if names is None else names | extra


@cache
def signature_names(factory: Callable[..., Any]) -> frozenset[str] | None:
    """Names of the arguments of a function or a constructor, following `**kwargs` up the classes.

    None where they cannot be told: `**kwargs` that no base class closes, or a signature that Python does not know.
    """
    if not inspect.isclass(factory):
        names, is_open = _parameters(factory)
        return None if is_open else names
    collected: frozenset[str] = frozenset()
    passes_on = False  # some constructor so far handed its **kwargs upwards
    for cls in inspect.getmro(factory):
        if cls in (object, nn.Module):
            return None if passes_on else collected
        if "__init__" not in vars(cls):
            if "__new__" in vars(cls):
                return None
            continue
        names, passes_on = _parameters(vars(cls)["__init__"])
        collected |= names - {"self"}
        if not passes_on:
            return collected
    return None


def _parameters(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return frozenset(), True
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = frozenset(name for name, kind in kinds.items() if kind not in variable)
    return names, inspect.Parameter.VAR_KEYWORD in kinds.values()
