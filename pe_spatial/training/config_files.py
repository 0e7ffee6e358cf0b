"""Config files: found by name, read without running code, and merged with the files that they build on.

A file names its bases in `_base_`: names as `find_config` takes them, looked up beside the file first. Sections of a
file and of its bases are merged key by key; everything else, lists included, is replaced. `_delete_: true` in a section
drops what the bases say there. Several bases may add to one section, but two that give one key different values are
refused. `{{$NAME:default}}` stands for an environment variable.
"""

import os
import re
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from pe_spatial.common.errors import ConfigError, UnreadableFile, suggest
from pe_spatial.common.reading import read_text
from pe_spatial.common.safe_yaml import SafeLoader
from pe_spatial.common.trees import entries
from pe_spatial.training.old_names import RECIPES

# a recipe of the working folder comes before the installed one of the same name
CONFIG_ROOTS = (Path("configs"), Path(str(files("pe_spatial.configs"))))
_NO_RECIPES = {"_base_", "detectron2"}  # folders of parts, and of files for another program
_WORDS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_TEMPLATE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_ENVIRONMENT = re.compile(r"['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?")

Settings = dict[str, Any]
Origins = dict[str, str]  # dotted key -> file:line


# --- finding ----------------------------------------------------------------------------------------------------------
def find_config(name: str | Path, beside: Path | None = None) -> Path:
    """Find the config file of that name.

    The name is a path, or the end of a path below `configs/` of the working folder or below the installed recipes; the
    suffix may be missing. Where both have a file of the same path, the one of the working folder is taken.

    Args:
        name: What to look for.
        beside: The folder that a relative path starts from, for a name in a file; None is the working folder.

    Raises:
        ConfigError: None or several fit, or the file is not YAML.
    """
    path = Path(name).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        if path.suffix in (".py", ".json"):
            raise ConfigError(f"{path}: a config must be a YAML file, not {path.suffix}; convert it to YAML")
        path = path.with_name(path.name + ".yaml")
    here = (beside or Path()) / path
    if here.is_file():
        return here
    below = path
    if beside:  # a recipe that was copied to another folder still finds the bases that were above it
        below = Path(*(part for part in path.parts if part != ".."))
    known = _files()
    found = {at: file for at, file in known.items() if at.parts[-len(below.parts) :] == below.parts}
    if below in found and len(below.parts) > 1:
        return found[below]
    different = {file.resolve(): file for file in found.values()}
    if len(different) == 1:
        return next(iter(different.values()))
    if found:
        listing = "\n  ".join(map(str, found.values()))
        raise ConfigError(f"several configs have the name {path}; give one of these paths:\n  {listing}")
    if path.stem in RECIPES:
        return find_config(path.with_stem(RECIPES[path.stem]), beside)
    if "_base_" in path.parts:
        hint = suggest(below.as_posix(), {at.as_posix() for at in known})
    else:
        recipes = {at.name for at in known if not _NO_RECIPES & {*at.parts}}
        hint = suggest(path.name, recipes | {file.name for file in here.parent.glob("*.yaml")})
    raise ConfigError(f"no config {path} {f'in {beside}' if beside else 'here'} or below configs/; {hint}")


def list_configs() -> dict[str, str]:
    """Names of all recipes, as `find_config` takes them, with the first line of each."""
    recipes = {at: file for at, file in sorted(_files().items()) if not _NO_RECIPES & {*at.parts}}
    texts = {at.as_posix(): file.read_text("utf-8", "replace") for at, file in recipes.items()}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in texts.items()}


def _files() -> dict[Path, Path]:
    """Path below its root to file, for every YAML file below the roots."""
    found: dict[Path, Path] = {}
    for root in CONFIG_ROOTS:
        for file in sorted(root.rglob("*.y*ml")):
            found.setdefault(file.relative_to(root), file)
    return found


# --- reading ----------------------------------------------------------------------------------------------------------
def read_config_file(path: Path, derived: tuple[Path, ...] = ()) -> tuple[Settings, Origins]:
    """Read a file over its bases.

    Args:
        path: A YAML file.
        derived: The files that build on this one.

    Returns:
        The merged settings, and where each comes from.

    Raises:
        ConfigError: A file that is missing, no YAML, or disagrees with another one; with the line.
    """
    if path.resolve() in derived:
        raise ConfigError(f"{path} builds on itself: {' -> '.join(map(str, [*derived, path]))}; remove one _base_")
    own, origins = _read_alone(path)
    below: Settings = {}
    places: Origins = {}
    bases = own.pop("_base_", None) or []
    for index, name in enumerate(bases if isinstance(bases, list) else [bases]):
        where = origins.get(f"_base_.{index}") or origins.get("_base_", str(path))
        try:
            base = find_config(str(name), path.parent)
        except ConfigError as error:
            raise ConfigError(f"{where}: _base_ {name!r}: {error}") from error
        content, more = read_config_file(base, (*derived, path.resolve()))
        below = _merge(below, content, (places, more), beside=True)
        places |= more
    return _merge(below, own, (places, origins)), places | origins


def read_config_files(paths: Sequence[Path], settings: Settings) -> tuple[Settings, Origins]:
    """Read several files, each over those before it, and settings over all; otherwise as `read_config_file`."""
    merged: Settings = {}
    origins: Origins = {}
    above = [read_config_file(path) for path in paths]
    composed = dict.fromkeys((where for where, *_ in entries(settings)), "the composed part")
    for content, places in [*above, (settings, composed)]:
        merged = _merge(merged, content, (origins, places))
        origins |= places
    return merged, origins


def _read_alone(path: Path) -> tuple[Settings, Origins]:
    """The content of one file, and the line of every key."""
    origins: Origins = {}
    try:
        loader = SafeLoader(_fill_in_environment(path, read_text(path)))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: a config must be a mapping of keys to values")
        _collect(node, "", path, origins)
        return loader.construct_document(node), origins
    except UnreadableFile as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.constructor.ConstructorError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML in UTF-8: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path}: the sections are nested too deeply, or an anchor (&name) contains itself"
        ) from error


def _fill_in_environment(path: Path, text: str) -> str:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("#"):
            lines[number - 1] = _TEMPLATE.sub(partial(_value_of, f"{path}:{number}"), line)
    return "".join(lines)


def _value_of(where: str, found: re.Match[str]) -> str:
    """What an environment variable says in the place of `{{$NAME:default}}`."""
    template = found[1]
    match = _ENVIRONMENT.fullmatch(template)
    if match is None:
        raise ConfigError(
            f"{where}: {{{{{template}}}}} is not supported; write environment variables as {{{{$NAME:default}}}}, and "
            "the value of a top-level key _name as $_name"
        )
    name, default = match.groups()
    value = os.environ.get(name, default)
    if not value:
        raise ConfigError(f"{where}: the environment variable {name} is not set and has no default; set it")
    return value


def _collect(node: yaml.Node, prefix: str, path: Path, origins: Origins) -> None:
    """Note the line of every key, and refuse what no config may hold."""
    line = node.start_mark.line + 1
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python/"):
        raise ConfigError(f"{path}:{line}: tag {node.tag!r} is not allowed; configs hold plain values only")
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            origins[f"{prefix}{index}"] = f"{path}:{item.start_mark.line + 1}"
            _collect(item, f"{prefix}{index}.", path, origins)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not (prefix or key.tag in _WORDS):
                raise ConfigError(f"{path}:{line}: a key must be a plain word, not {key.value!r}")
            origins[f"{prefix}{key.value}"] = f"{path}:{line}"
            _collect(value, f"{prefix}{key.value}.", path, origins)


# --- merging ----------------------------------------------------------------------------------------------------------
def _merge(
    below: Settings, above: Settings, origins: tuple[Origins, Origins], beside: bool = False, prefix: str = ""
) -> Settings:
    """Put settings over others, section by section.

    Args:
        below: Of the bases.
        above: Of the file that builds on them, or of the next base.
        origins: Of both.
        beside: Both are bases of one file: none wins over the other.
        prefix: Of the section that both are.

    Raises:
        ConfigError: A section over a plain value, or two bases that disagree.
    """
    merged = dict(below)
    for key, value in above.items():
        where = f"{prefix}{key}"
        old = merged.get(key)
        places = " and ".join(origin_of(each, where, "") for each in origins)
        if isinstance(value, dict):
            old = {} if old is None or value.get("_delete_") else old
            if not isinstance(old, dict):
                raise ConfigError(f"{places}: {where} is a plain value and a section; _delete_: true in it replaces it")
            value = _merge(old, {k: v for k, v in value.items() if k != "_delete_"}, origins, beside, f"{where}.")
        elif beside and key in merged and old != value:
            raise ConfigError(f"{places}: two bases set {where} differently; remove it from one of them")
        merged[key] = value
    return merged


def origin_of(origins: Origins, where: str, default: str) -> str:
    """The origin of a key, or of the nearest section around it."""
    while where:
        if where in origins:
            return origins[where]
        where = where.rpartition(".")[0]
    return default
