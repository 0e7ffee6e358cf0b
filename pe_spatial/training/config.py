"""`load_config`: mmengine's Config from YAML files, found by name, read safely and checked before anything runs."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

import pe_spatial.configs
from pe_spatial.common.errors import ConfigError, suggest
from pe_spatial.training.config_checks import TOP_LEVEL_KEYS, find_problems, has_schema
from pe_spatial.training.safe_yaml import SafeLoader, parse

CONFIG_ROOTS = (Path("configs"), Path(pe_spatial.configs.__path__[0]))
# configs and checkpoints of version 0.1 name the packages of the tasks without the one in front
OLD_NAMES = {task: f"pe_spatial.{task}" for task in ("detection", "segmentation", "depth", "tracking")}


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load, override and check a config.

    Top-level keys that begin with `_` are the author's variables and are dropped. The value `$_x` stands for that of
    the variable `_x` as the derived file or an override left it.

    Args:
        name: A path, or a file name (the suffix may be missing) that is looked up below `configs/`.
        overrides: `dotted.key=value`; the value is YAML, a list is indexed by number.

    Raises:
        ConfigError: Lists every problem with the file and line, or the override, that it comes from.
    """
    path = find_config(name)
    origins = _scan(path)
    try:
        config = Config.fromfile(path, import_custom_modules=False)
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {error.args[0] if error.args else error}") from error
    for override in overrides:
        origins[_apply(config, override)] = f"override '{override}'"
    variables = {f"${key}": config.pop(key) for key in [key for key in config if key.startswith("_")]}
    problems = [problem for key in config for problem in _fill_in(config, key, key, variables)]
    import_packages(config)
    _normalize(config)
    problems += find_problems(config)
    if problems:
        raise ConfigError("\n".join(f"{_origin(origins, where, path)}: {where}: {what}" for where, what in problems))
    return config


def override_config(config: Config, overrides: Sequence[str]) -> None:
    """Change entries of the config of a checkpoint, whose packages are imported.

    Args:
        config: Changed in place.
        overrides: As in `load_config`.

    Raises:
        ConfigError: An override that does not fit, or an option that does not exist.
    """
    origins = {_apply(config, override): f"override '{override}'" for override in overrides}
    problems = (
        [f"{_origin(origins, where, Path())}: {what}" for where, what in find_problems(config)] if origins else []
    )
    if problems:
        raise ConfigError("\n".join(problems))


def find_config(name: str | Path) -> Path:
    """The config file of that name.

    Raises:
        ConfigError: None or several fit, or the file is not YAML.
    """
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        if path.suffix in (".py", ".json"):
            raise ConfigError(f"{path}: configs are YAML files, and {path.suffix} files are not read")
        path = path.with_name(path.name + ".yaml")
    if path.is_file():
        return path
    found: dict[Path, Path] = {}
    for root in CONFIG_ROOTS:
        for candidate in sorted(root.rglob(path.name)):
            if candidate.parts[-len(path.parts) :] == path.parts:
                found.setdefault(candidate.resolve(), candidate)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        listing = "\n  ".join(str(candidate) for candidate in found.values())
        raise ConfigError(f"several configs are called {path}; give one of these paths:\n  {listing}")
    known = {file.name for root in CONFIG_ROOTS for file in root.rglob("*.yaml") if "_base_" not in file.parts}
    known |= {file.name for file in path.parent.glob("*.yaml")}
    raise ConfigError(f"no config {path} here or below configs/; {suggest(path.name, known)}")


# --- where a key comes from -------------------------------------------------------------------------------------------
def _scan(path: Path) -> dict[str, str]:
    """Dotted key to `file:line` over a file and its bases, the derived file winning; nothing is constructed."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: a config is a mapping of keys to values")
    origins: dict[str, str] = {}
    for key, value in node.value:
        if key.value == "_base_":
            bases = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for base in bases:
                base_path = path.parent / str(base.value)
                if base_path.suffix not in (".yaml", ".yml") or not base_path.is_file():
                    line = base.start_mark.line + 1
                    raise ConfigError(f"{path}:{line}: _base_ {base.value!r} is no YAML file relative to {path.parent}")
                origins |= _scan(base_path)
    _collect(node, "", path, origins, set())
    return origins


def _collect(node: yaml.Node, prefix: str, path: Path, origins: dict[str, str], seen: set[str]) -> None:
    line = node.start_mark.line + 1
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python/"):
        raise ConfigError(f"{path}:{line}: tag {node.tag!r} is not allowed; configs hold plain values only")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            origins[f"{prefix}{index}"] = f"{path}:{item.start_mark.line + 1}"
            _collect(item, f"{prefix}{index}.", path, origins, set())
    elif isinstance(node, yaml.MappingNode):
        keys: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a {{_base_.x}} template, which is replaced before the file is read
            line = key.start_mark.line + 1
            if key.value in keys and key.value != "<<":
                raise ConfigError(
                    f"{path}:{line}: {prefix}{key.value} is defined twice, first on line {keys[key.value]}"
                )
            keys[key.value] = line
            origins[f"{prefix}{key.value}"] = f"{path}:{line}"
            _collect(value, f"{prefix}{key.value}.", path, origins, set())


def _origin(origins: dict[str, str], where: str, path: Path) -> str:
    """The origin of a key, or of the nearest section around it."""
    while where:
        if where in origins:
            return origins[where]
        where = where.rpartition(".")[0]
    return str(path)


# --- overrides --------------------------------------------------------------------------------------------------------
def _apply(config: Config, override: str) -> str:
    """Set one `key=value` and return its key."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': write it as dotted.key=value")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': the value is not YAML: {error}") from error
    *sections, last = key.split(".")
    node: Any = config
    for depth, part in enumerate(sections):
        node = _child(node, part, ".".join(sections[: depth + 1]), override)
    if isinstance(node, list):
        _child(node, last, key, override)
        node[int(last)] = value
    elif not isinstance(node, dict | Config):
        _child(node, last, key, override)
    elif last in node:
        if isinstance(node[last], dict) and not isinstance(value, dict | None):
            raise ConfigError(f"override '{override}': {key} is a section with the keys {', '.join(node[last])}")
        node[last] = value
    elif (not sections and last in TOP_LEVEL_KEYS) or has_schema(sections, node):
        node[last] = value  # an option that the files leave at its default; find_problems judges its name
    else:
        raise ConfigError(f"override '{override}': there is no {key}; {suggest(last, node)}")
    return key


def _child(node: Any, part: str, where: str, override: str) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ConfigError(f"override '{override}': {where} does not index its list of {len(node)} items (0…)")
        return node[int(part)]
    if not isinstance(node, dict | Config):
        raise ConfigError(f"override '{override}': {where} lies inside a plain value ({node!r})")
    if part not in node:
        raise ConfigError(f"override '{override}': there is no {where}; {suggest(part, node)}")
    return node[part]


# --- after merging ----------------------------------------------------------------------------------------------------
def _fill_in(node: Any, key: Any, where: str, variables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Put the values of variables in the place of `$_x`, anywhere below a key; yields what names none."""
    value = node[key]
    if isinstance(value, dict):
        for name in value:
            yield from _fill_in(value, name, f"{where}.{name}", variables)
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from _fill_in(value, index, f"{where}.{index}", variables)
    elif isinstance(value, str) and value in variables:
        node[key] = deepcopy(variables[value])
    elif isinstance(value, str) and value.startswith("$_"):
        yield where, f"there is no variable {value.removeprefix('$')}; define it at the top level of the config"


def import_packages(config: Any) -> None:
    """Import what registers the names that a config may use.

    Raises:
        ConfigError: `custom_imports` names a module that does not exist, or whose third parties are not installed.
    """
    modules = (config.get("custom_imports") or {}).get("imports", [])
    ours = [f"pe_spatial.{name}" for name in ("backbones", "data", "training", "doctor")]
    for module in [*ours, *(OLD_NAMES.get(name, name) for name in _as_list(modules))]:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                package = (error.name or "").partition(".")[0]
                if not package or find_spec(package):
                    raise  # a mistake inside the module
                raise ConfigError(
                    f"{config.filename}: {module} needs the package {package!r}, which is not installed; "
                    f"pip install 'pe_spatial[{module.rpartition('.')[2]}]'"
                ) from error
            raise ConfigError(f"{config.filename}: custom_imports: there is no module {module!r}") from error


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _normalize(config: Config) -> None:
    """Settle combinations that mmengine or torch reject although their meaning is plain."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(name)
        if loader and loader.get("num_workers", 0) == 0:
            for key in ("persistent_workers", "prefetch_factor", "timeout"):
                loader.pop(key, None)
    hooks = config.get("default_hooks") or {}
    mmengine_names = {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"}
    for name in [name for name, hook in hooks.items() if hook is None and name not in mmengine_names]:
        hooks.pop(name)  # switched off; mmengine accepts null only for hooks of its own


def drop_pretrained(model: Any) -> None:
    """Forget where backbones get their first weights from: a checkpoint is loaded over them anyway.

    What stands below `teachers` keeps its source: teachers are no part of a checkpoint.
    """
    if isinstance(model, dict):
        if model.get("weights"):
            model["weights"] = None
        for key, value in model.items():
            if key != "teachers":
                drop_pretrained(value)
    elif isinstance(model, list):
        for value in model:
            drop_pretrained(value)
