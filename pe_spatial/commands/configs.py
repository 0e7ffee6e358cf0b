"""List, show and copy the recipes.

    pe-spatial configs list [WORD]
    pe-spatial configs show pe_g_coco [key=value ...]
    pe-spatial configs copy pe_g_coco mine.yaml

A config is found by its name below configs/: those of the working directory first, then the installed ones.
"""

import argparse
from pathlib import Path

from pe_spatial.commands.options import CommandParser, add_shared
from pe_spatial.common.errors import UserError


def add_list(parser: CommandParser) -> None:
    """Print the name and the first line of every recipe.

        pe-spatial configs list
        pe-spatial configs list tracking

    The first line says what is trained on what.
    """
    parser.add_argument("word", nargs="?", default="", help="only recipes with this word in their name or first line")


def add_show(parser: CommandParser) -> None:
    """Print a config with all values filled in.

        pe-spatial configs show pe_g_coco model.backbone.window=16

    It is YAML that can be loaded again.
    """
    parser.add_argument("name", help="a YAML file, or its name below configs/")
    add_shared(parser, "--allow-import", "overrides")


def add_copy(parser: CommandParser) -> None:
    """Copy a recipe to change it.

        pe-spatial configs copy pe_g_coco mine.yaml

    Its bases stay where they are and are found from anywhere.
    """
    parser.add_argument("name", help="a YAML file, or its name below configs/")
    parser.add_argument("target", type=Path, help="the new file, or a folder for it")
    parser.add_argument("--force", action="store_true", help="overwrite the new file")


SUBCOMMANDS = {"list": add_list, "show": add_show, "copy": add_copy}


def run(options: argparse.Namespace) -> int:
    """List, show or copy; returns 1 where no recipe has the word."""
    if options.subcommand == "list":
        return _list(options.word)
    if options.subcommand == "copy":
        print(f"wrote {copy_config(options.name, options.target, options.force)}")
        return 0
    from pe_spatial.training.config import config_text, load_config

    print(config_text(load_config(options.name, options.overrides)), end="")
    return 0


def _list(word: str) -> int:
    from pe_spatial.training.config_files import list_configs

    word = word.lower()
    found = {name: line for name, line in list_configs().items() if word in name.lower() or word in line.lower()}
    width = max(map(len, found), default=0)
    for name, line in found.items():
        print(f"{name:<{width}}  {line}")
    return 0 if found else 1


def copy_config(name: str, target: Path, overwrite: bool = False) -> Path:
    """Copy a config with its comments.

    Returns:
        The new file.

    Raises:
        ConfigError: There is no such config.
        UserError: The target exists, or the bases of the config are not found from there.
    """
    from pe_spatial.common.files import write_text
    from pe_spatial.common.reading import read_text
    from pe_spatial.training.config_files import find_config, read_config_file

    source = find_config(name)
    target = target / source.name if target.is_dir() else target
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(f"{target} must end in .yaml, because configs are YAML files")
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists; pass --force to overwrite it, or choose another name")
    text = read_text(source)
    trial = target.with_name(f".trial_{target.name}")  # beside the target, for bases are looked up there first
    try:
        write_text(trial, text)
        if read_config_file(trial)[0] != read_config_file(source)[0]:
            raise UserError(
                f"{source} would have another meaning in {target.parent}; use `pe-spatial configs show {name}`"
            )
    finally:
        trial.unlink(missing_ok=True)
    write_text(target, text)
    return target
