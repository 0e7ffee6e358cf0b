"""What a config may make the program import and call: the rules of SECURITY.md, checked before anything is imported.

mmengine takes any importable name for a `type`, and imports the package of a scope. So every config is walked when it
is read, from YAML or from a checkpoint, and refused with the key that breaks a rule.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

import mmengine.registry
import torch
from mmengine.registry import Registry
from torchvision.transforms import v2

from pe_spatial.common.errors import ConfigError
from pe_spatial.common.names import leaves
from pe_spatial.common.trees import entries
from pe_spatial.common.trust import is_trusted, remedy, unsaid, within

REGISTRIES: dict[str, Registry] = {
    name: value for name, value in vars(mmengine.registry).items() if isinstance(value, Registry)
}
SCOPES = ("mmengine", "mmcv", "mmseg")  # whose registered names are free, as those of pe_spatial are
_IMPORTS = ("pe_spatial", "mmseg")  # what `custom_imports` may name
_DOTTED: dict[str, tuple[type, ...]] = {  # package -> kinds of its classes that are free
    "torch.nn": (torch.nn.Module,),
    "torch.optim": (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler),
    "torchvision.ops": (torch.nn.Module,),
    "torchvision.transforms.v2": (v2.Transform,),
    "timm.optim": (torch.optim.Optimizer,),
}
_LIBRARIES = {name.partition(".")[0] for name in _DOTTED}
_KINDS = f"the modules, optimizers, schedulers and transforms in {', '.join(_DOTTED)}"
# registered names of mmengine, mmcv and mmseg that do more than build a part -> the package to trust, and what they do
_ACTING: dict[str, tuple[str, str]] = {
    "Albu": ("albumentations", "calls anything of that package by name"),
    "AimVisBackend": ("aim", "sends results to a service"),
    "ClearMLVisBackend": ("clearml", "sends results to a service"),
    "CityscapesMetric": ("mmseg", "removes a folder that the config names"),
    "DSDLSegDataset": ("dsdl", "runs code that comes with the data"),
    "DVCLiveVisBackend": ("dvclive", "runs another program"),
    "DumpResults": ("mmengine", "writes a pickle wherever the config says"),
    "MLflowVisBackend": ("mlflow", "sends results to a service"),
    "NPUProfilerHook": ("mmengine", "writes wherever the config says"),
    "NeptuneVisBackend": ("neptune", "sends results to a service"),
    "ProfilerHook": ("mmengine", "writes wherever the config says"),
    "RFSearchHook": ("mmcv", "evaluates text of the config as code"),
    "TIMMBackbone": ("timm", "fetches weights from the network"),
    "VPD": ("ldm", "calls anything that its config names"),
    "WandbVisBackend": ("wandb", "sends results to a service"),
}
# registries of whole programs, which make folders and processes where they are built
_PROGRAMS = ("RUNNERS", "RUNNER_CONSTRUCTORS", "STRATEGIES", "INFERENCERS")
# what options of mmengine, mmcv and mmseg stand for, whichever part has them
_NAMES = ("type", "constructor", "auto_wrap_policy", "param_init_fn")  # and all that end in _type: looked up by name
_STORAGE = ("backend_args", "file_client_args")
_PLACES = ("collect_dir", "json_trace_path", "out_dir", "out_file_path", "output_dir", "save_dir")  # written or removed
_FILES = ("config_save_file", "filename_tmpl", "img_save_dir", "scalar_save_file")  # written below the run's folder
_WEIGHTS = ("checkpoint", "load_from", "pretrained")
_COMPILERS = (None, "inductor", "eager", "aot_eager", "cudagraphs")


def require_trusted(config: Any, origin: Callable[[str], str]) -> None:
    """Refuse a config that could make the program run code which nobody has asked for.

    Args:
        config: A mapping, or mmengine's Config.
        origin: Says of a dotted key which file, and which line, it comes from.

    Raises:
        ConfigError: A line for every key that breaks a rule, with the remedy.
    """
    lines = [f"{origin(where)}: {where}: {what}" for where, what in violations(config)]
    if lines:
        raise ConfigError("\n".join(lines))


def violations(config: Any) -> Iterator[tuple[str, str]]:
    """(dotted key, which rule it breaks and what to do) of everything in a config that must not be built."""
    yield from _judge_imports(config.get("custom_imports"))
    yield from _judge_compile(config.get("compile"))
    last = None
    for where, key, value, _ in entries(dict(config.items())):
        problem = "" if last and within(where, last) else _judge(key, value)
        if problem:
            last = where
            yield where, problem


def resolve(name: str) -> Any | None:
    """What a dotted name stands for, if a config may build it without or with what is trusted; else None.

    Nothing is imported but modules of packages that may be: the free ones and those that are trusted. What is found
    must be defined there: a module may have imported anything.
    """
    module_name, _, attribute = name.rpartition(".")
    if is_trusted(module_name):
        found = _attribute(module_name, attribute)
        is_theirs = is_trusted(getattr(found, "__module__", None) or "")
        return found if is_theirs and (inspect.isclass(found) or inspect.isfunction(found)) else None
    for package, kinds in _DOTTED.items():
        if within(module_name, package):
            found = _attribute(module_name, attribute)
            is_kind = inspect.isclass(found) and issubclass(found, kinds) and found is not v2.Lambda
            return found if is_kind and found.__module__.partition(".")[0] in _LIBRARIES else None
    if any(within(module_name, scope) for scope in ("pe_spatial", *SCOPES)):
        found = _attribute(module_name, attribute)
        parts = _registered(registry for key, registry in REGISTRIES.items() if key not in _PROGRAMS)
        if inspect.isclass(found) and found.__name__ not in _ACTING and found in parts:
            return found
    return None


def may_import(module: str) -> bool:
    """Whether a config may have a module of this name imported: of the free packages, and of those that are trusted."""
    return is_trusted(module) or any(within(module, package) for package in ("pe_spatial", *SCOPES, *_DOTTED))


def _attribute(module_name: str, attribute: str) -> Any | None:
    return getattr(import_module(module_name), attribute, None) if _is_module(module_name) else None


def _is_module(name: str) -> bool:
    if name.endswith("__main__"):
        return False  # a program
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def _registered(registries: Iterable[Registry]) -> Iterator[Any]:
    for registry in registries:
        yield from registry.module_dict.values()
        yield from _registered(registry.children.values())


# --- judging keys -----------------------------------------------------------------------------------------------------
def _judge(key: str, value: Any) -> str:
    """What is wrong with one entry; empty if it may stand."""
    if key == "_base_":
        return "_base_ works only at the top level of a file; move it there"
    if key in ("default_scope", "_scope_"):
        return _judge_scope(value)
    if key == "type" and isinstance(value, dict | list | tuple):
        return f"the name of a class is expected, not a {type(value).__name__}"
    if isinstance(value, str) and (key in _NAMES or key.endswith("_type")):
        return _judge_name(value)
    if key in _STORAGE and value not in (None, {}, {"backend": "local"}, {"backend": "disk"}):
        return f"files are read only from the disk, not through {value!r}; remove it"
    if key == "mp_start_method" and value not in (None, "fork"):
        return f"loader processes must be forked so that these rules hold in them too; remove {value!r}"
    if key == "decode_backend" and value == "pickle":
        return "pickles are not read, because they can run any code; convert the files to .npy"
    if (key in _PLACES and value is not None) or (key in _FILES and isinstance(value, str) and leaves(value)):
        return "results are written only below the folder of the run or --output; remove it"
    if key in _WEIGHTS and isinstance(value, str) and "://" in value and not value.startswith("pe_spatial://"):
        return f"weights are not downloaded from {value}; download the file yourself and give its path"
    return ""


def _judge_name(name: str) -> str:
    package, _, rest = name.partition(".")
    module, _, attribute = name.rpartition(".")
    if is_trusted(module):
        return ""
    if attribute in _ACTING and (not rest or package in SCOPES):
        theirs, deed = _ACTING[attribute]
        return "" if is_trusted(theirs) else f"{name} {deed}; {remedy(theirs)}"
    if not rest:
        return ""  # a registered name, or an unknown one, which does nothing: `find_problems` says what may be meant
    if package not in (*_LIBRARIES, *SCOPES, "pe_spatial"):
        return unsaid(name)
    is_place = may_import(module) and _is_module(module)
    if is_place and (not hasattr(import_module(module), attribute) or resolve(name) is not None):
        return ""  # as above; `mmseg.UPerHead` is registered under that name and is no attribute of mmseg
    return f"a config may name only registered classes and {_KINDS}; {name} is neither: correct or remove it"


def _judge_scope(scope: Any) -> str:
    if scope is None or (isinstance(scope, str) and (scope in SCOPES or is_trusted(scope))):
        return ""
    if not isinstance(scope, str):
        return f"{scope!r} is not text; a scope is the name of a package"
    return f"the scope {unsaid(scope)}"


def _judge_imports(section: Any) -> Iterator[tuple[str, str]]:
    if section is None:
        return
    imports = section.get("imports") if isinstance(section, Mapping) else None
    names = [imports] if isinstance(imports, str) else imports
    if not isinstance(names, list | tuple | None):
        names = None
    if names is None or not all(isinstance(name, str) for name in names):
        yield "custom_imports", "write {imports: [my_package]}, a list of names of modules"
        return
    for index, name in enumerate(names):
        is_free = any(within(name, package) for package in _IMPORTS) and not name.endswith("__main__")  # a program
        if not is_free and not is_trusted(name):
            yield f"custom_imports.imports.{index}" if imports is names else "custom_imports.imports", unsaid(name)


def _judge_compile(options: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(options, Mapping):
        return
    if options.get("options") is not None:
        yield "compile.options", "options of a compiler can name programs to run; remove it"
    if options.get("backend") not in _COMPILERS:
        yield "compile.backend", f"{options['backend']!r} is not one of {', '.join(filter(None, _COMPILERS))}"
