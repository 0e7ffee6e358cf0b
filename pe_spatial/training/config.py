"""`load_config`: mmengine's Config from YAML files, found by name, read safely and checked before anything runs."""

import logging
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.logging import print_log

from pe_spatial.backbones.contract import comes_from_its_file
from pe_spatial.common.errors import ConfigError, suggest
from pe_spatial.common.files import write_text
from pe_spatial.common.names import leaves
from pe_spatial.common.safe_yaml import parse, write
from pe_spatial.common.trees import entries, sections
from pe_spatial.common.trust import trusting
from pe_spatial.training import registry_guard  # noqa: F401 - holds mmengine to the rules of `trust`
from pe_spatial.training.config_checks import TOP_LEVEL_KEYS, find_problems, has_schema
from pe_spatial.training.config_files import find_config, origin_of, read_config_file, read_config_files
from pe_spatial.training.config_values import entry_problems
from pe_spatial.training.old_names import current_name, update_names
from pe_spatial.training.trust import require_trusted

_VARIABLE = re.compile(r"\$(_\w+)([+-]\d+)?")
_BUILT = re.compile(r"((model|data_preprocessor)\b|.*\.pipeline\.).*type")  # what a prediction builds


def load_config(name: str | Path, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Config:
    """Load, override and check a config.

    Top-level keys that begin with `_` are the author's variables and are dropped. The value `$_x` stands for that of
    the variable `_x` as the derived file or an override left it; `$_x-32` for 32 less, if it is a number.

    Args:
        name: A path or a name; see `find_config`.
        overrides: `dotted.key=value`; the value is YAML, a list is indexed by number.
        trust: Packages of your own that the config may import; see SECURITY.md.

    Raises:
        ConfigError: Lists every problem with the file and line, or the override, that it comes from.
        OptionError: A package of `trust` that is not there.
    """
    with trusting(trust):
        return _load_config(name, overrides)


def compose_config(
    parts: Sequence[str | Path], settings: dict[str, Any], overrides: Sequence[str] = (), trust: Sequence[str] = ()
) -> Config:
    """As `load_config`, from several files, each over those before it, and settings over all of them.

    Args:
        parts: Names of files; the config is called after the first.
        settings: Sections as a file would have them, with `_delete_` and variables.
        overrides: As in `load_config`.
        trust: As in `load_config`.

    Raises:
        ConfigError, OptionError: As `load_config`.
    """
    with trusting(trust):
        paths = [find_config(part) for part in parts]
        return _resolve(*read_config_files(paths, settings), paths[0], overrides)


def _load_config(name: str | Path, overrides: Sequence[str]) -> Config:
    path = find_config(name)
    return _resolve(*read_config_file(path), path, overrides)


def _resolve(settings: dict[str, Any], origins: dict[str, str], path: Path, overrides: Sequence[str]) -> Config:
    try:
        config = Config(update_names(settings), filename=path)
    except KeyError as error:  # a name that mmengine keeps for itself
        raise ConfigError(f"{path}: {error.args[0]}") from error
    for override in overrides:
        origins[_apply(config, override)] = _named(override)
    variables = {key: config.pop(key) for key in [key for key in config if key.startswith("_")]}
    problems = [problem for key in config for problem in _fill_in(config, key, key, variables)]
    require_trusted(config, partial(origin_of, origins, default=str(path)))
    _keep_results_inside(config, origins)
    import_packages(config, path)
    _normalize(config)
    problems += find_problems(config)
    if problems:
        first = dict(reversed(problems))  # of each key
        lines = (f"{origin_of(origins, where, str(path))}: {where}: {first[where]}" for where in dict(problems))
        raise ConfigError("\n".join(lines))
    return config


def override_config(config: Config, overrides: Sequence[str], checkpoint: Path) -> None:
    """Import the packages of the config of a checkpoint, and change entries.

    Args:
        config: Changed in place.
        overrides: As in `load_config`.
        checkpoint: For messages.

    Raises:
        ConfigError: An override that does not fit, or an option that does not exist; something that the config may not
            import, or a part that nobody registers.
    """
    origins = {_apply(config, override): _named(override) for override in overrides}
    require_trusted(config, partial(origin_of, origins, default=str(checkpoint)))
    _keep_results_inside(config, origins)
    import_packages(config, checkpoint)
    problems = [
        f"{origin_of(origins, where, f'{checkpoint}: {where}')}: {what}"
        for where, what in find_problems(config)
        if origins or _BUILT.fullmatch(where)  # options that an earlier version knew are the concern of what it built
    ]
    if problems:
        raise ConfigError("\n".join(problems))


def config_text(config: Config) -> str:
    """The config as YAML, with every value filled in; `load_config` reads it back equal.

    Raises:
        ConfigError: A value that code has put there is no plain one.
    """
    try:
        return write(config.to_dict())
    except yaml.YAMLError as error:
        raise ConfigError(f"the config cannot be written as YAML: {error}; give it plain values only") from error


def dump_config(config: Config, path: Path) -> None:
    """Write `config_text` to a file."""
    write_text(path, config_text(config))


def _named(override: str) -> str:
    return f"override '{override if len(override) <= 200 else override[:199] + '…'}'"


# --- overrides --------------------------------------------------------------------------------------------------------
def _apply(config: Config, override: str) -> str:
    """Set one `key=value` and return its key."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"{_named(override)}: write it as dotted.key=value")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_named(override)}: the value is not YAML: {' '.join(str(error).split())[:300]}") from error
    *sections, last = key.split(".")
    node: Any = config
    for depth, part in enumerate(sections):
        node = _child(node, part, ".".join(sections[: depth + 1]), override)
    if not isinstance(node, dict | Config):
        _child(node, last, key, override)  # refuses all but a place in a list
        node[int(last)] = value
    elif last in node:
        if isinstance(node[last], dict) and not isinstance(value, dict | None):
            raise ConfigError(f"{_named(override)}: {key} is a section with the keys {', '.join(node[last])}")
        node[last] = value
    elif (not sections and last in TOP_LEVEL_KEYS) or has_schema(sections, node):
        node[last] = value  # an option that the files leave at its default; find_problems judges its name
    else:
        raise ConfigError(f"{_named(override)}: there is no {key}; {suggest(last, node)}")
    return key


def _child(node: Any, part: str, where: str, override: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"{_named(override)}: {where} does not index its list of {len(node)} items (0…)")
        return node[int(part)]
    if not isinstance(node, dict | Config):
        raise ConfigError(f"{_named(override)}: {where} is inside a plain value ({node!r})")
    if part not in node:
        raise ConfigError(f"{_named(override)}: there is no {where}; {suggest(part, node)}")
    return node[part]


# --- after merging ----------------------------------------------------------------------------------------------------
def _keep_results_inside(config: Config, origins: dict[str, str]) -> None:
    """Forget files for results outside of the folder of the run, unless the command line names them.

    A relative name is one below that folder; see `start.place_results`.
    """
    for where, key, value, section in entries(dict(config.items())):
        is_file = key == "results_file" and isinstance(value, str)
        if not is_file or not leaves(value) or origin_of(origins, where, "").startswith("override"):
            continue
        section[key] = None
        text = f"{where}: {value} is outside the run and is not written; set it on the command line: {where}=FILE"
        print_log(text, logger="current", level=logging.WARNING)


def _fill_in(node: Any, key: Any, where: str, variables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Put the values of variables in the place of `$_x` and `$_x-32`, anywhere below a key; yields what fits none."""
    value = node[key]
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from _fill_in(value, name, f"{where}.{name}", variables)
    elif isinstance(value, str) and value.startswith("$_"):
        match = _VARIABLE.fullmatch(value)
        if match is None or match[1] not in variables:
            name = match[1] if match else value[1:]
            yield where, f"there is no variable {name}; define it at the top level of the config"
        elif not match[2]:
            node[key] = deepcopy(variables[match[1]])
        elif isinstance(variables[match[1]], int | float):
            node[key] = variables[match[1]] + int(match[2])
        else:
            yield where, f"{value} needs a number, but {match[1]} is {variables[match[1]]!r}"


def import_packages(config: Any, origin: Path) -> None:
    """Import what registers the names that a config may use.

    Args:
        config: Has passed `require_trusted`.
        origin: Its file, for messages.

    Raises:
        ConfigError: `custom_imports` names a module that does not exist, or whose third parties are not installed.
    """
    for where, problem in entry_problems(config):
        if where.startswith("custom_imports"):
            raise ConfigError(f"{config.filename}: {where}: {problem}")
    theirs = (config.get("custom_imports") or {}).get("imports", [])
    ours = [f"pe_spatial.{name}" for name in ("backbones", "data", "training", "doctor")]
    for module in [*ours, *map(current_name, [theirs] if isinstance(theirs, str) else theirs)]:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                package = (error.name or "").partition(".")[0]
                if not package or find_spec(package):
                    raise  # a mistake inside the module
                raise ConfigError(
                    f"{origin}: {module} needs the package {package!r}, which is not installed; "
                    f"pip install 'pe_spatial[{module.rpartition('.')[2]}]'"
                ) from error
            raise ConfigError(f"{origin}: custom_imports: there is no module {module!r}") from error


def _normalize(config: Config) -> None:
    """Settle combinations that mmengine or torch reject although their meaning is plain."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(name)
        if isinstance(loader, dict) and loader.get("num_workers", 0) == 0:
            for key in ("persistent_workers", "prefetch_factor", "timeout"):
                loader.pop(key, None)
    hooks = config.get("default_hooks")
    hooks = hooks if isinstance(hooks, dict) else {}
    mmengine_names = {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"}
    for name in [name for name, hook in hooks.items() if hook is None and name not in mmengine_names]:
        hooks.pop(name)  # switched off; mmengine accepts null only for hooks of its own


def drop_pretrained(model: Any) -> None:
    """Forget where backbones get their first weights from: a checkpoint is loaded over them anyway.

    What stands below `teachers` keeps its source: teachers are no part of a checkpoint. So does an encoder
    that checkpoints do without; see `pe_spatial.training.frozen_encoders`.
    """
    for part in sections(model, without="teachers"):
        if part.get("weights") and not comes_from_its_file(part):
            part["weights"] = None
