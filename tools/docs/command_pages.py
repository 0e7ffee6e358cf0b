"""The pages of the commands, made from their parsers when the site is built; nothing heavy is imported."""

import argparse
import os
import re
from unittest import mock

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import COMMANDS, module_of, parser_of

FOLDER = "reference/commands"
WIDTH = "100"  # of the usage lines
STATUS = """
| exit status | meaning |
|---|---|
| 0 | done |
| 1 | a bug, with its traceback; or work that is done in part, and the command names what is missing |
| 2 | a mistake in the command, the config or the files |
| 3 | the loss is no longer finite |
| 130 | interrupted by Ctrl-C or SIGTERM |
"""


def command_pages() -> dict[str, str]:
    """Place in the site and Markdown of every page."""
    pages = {f"{FOLDER}/index.md": _index()}
    for name in COMMANDS:
        pages[f"{FOLDER}/{slug(name)}.md"] = _page(name)
    return pages


def slug(name: str) -> str:
    """The name of a command in addresses: `convert-data` for `convert data`; `index` is the page of the folder."""
    return "index-command" if name == "index" else name.replace(" ", "-")


def _index() -> str:
    rows = "\n".join(f"| [`{name}`]({slug(name)}.md) | {summary} |" for name, summary in COMMANDS.items())
    return (
        "# Commands\n\n"
        "This page is for everyone who looks for a command or an option. "
        "`pe-spatial NAME --help` prints the same on your machine.\n\n"
        f"| `pe-spatial …` | what it does |\n|---|---|\n{rows}\n\n"
        f"All commands end with the same exit statuses:\n{STATUS}"
    )


def _page(name: str) -> str:
    """A command, or a command and all that it can do."""
    module, program = module_of(name), f"pe-spatial {name}"
    parts = [f"# {program}"]
    if hasattr(module, "add_arguments"):
        return "\n\n".join([*parts, *_described(parser_of(program, module))]) + "\n"
    parts.append(prose(str(module.__doc__)))
    for subcommand in module.SUBCOMMANDS:
        parts += [f"## {program} {subcommand}", *_described(parser_of(program, module, subcommand))]
    return "\n\n".join(parts) + "\n"


def _described(parser: CommandParser) -> list[str]:
    """Explanation, usage and tables of options."""
    with mock.patch.dict(os.environ, COLUMNS=WIDTH):
        usage = re.sub(r"^(usage: | {7})", "", parser.format_usage(), flags=re.MULTILINE)
    parts = [prose(str(parser.description)), f"```text\n{usage.rstrip()}\n```"]
    for group in parser._action_groups:  # argparse offers no other way to them
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if rows := [_row(action) for action in actions if not isinstance(action, argparse._HelpAction)]:
            title = {"positional arguments": "Arguments", "options": "Options"}.get(str(group.title), str(group.title))
            parts.append(f"**{prose(title.capitalize() if title.islower() else title)}**")
            parts.append("\n".join(["| name | value | default | meaning |", "|---|---|---|---|", *rows]))
    return parts


def _row(action: argparse.Action) -> str:
    """One line of a table."""
    names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    meaning, default = _meaning(action)
    default = "required" if action.required and action.option_strings else default
    return f"| {names} | {_value(action)} | {default} | {meaning} |"


def _value(action: argparse.Action) -> str:
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0 or not action.option_strings:
        return "–"
    names = action.metavar or action.dest.upper()
    text = " ".join(names) if isinstance(names, tuple) else names
    return f"`{text} …`" if action.nargs in ("+", "*") else f"`[{text}]`" if action.nargs == "?" else f"`{text}`"


def _meaning(action: argparse.Action) -> tuple[str, str]:
    """What an option means, and its default, which some helps name at their end."""
    text = str(action.help or "") % {"default": action.default} if "%" in str(action.help) else str(action.help or "")
    found = re.search(r"[;,]? \(?default:? (?P<default>[^()]*)\)?$", text)
    if found:
        return cell(text[: found.start()]), cell(found["default"])
    if action.default in (None, False, []) or action.nargs == 0:
        return cell(text), "–"
    values = action.default if isinstance(action.default, list | tuple) else [action.default]
    return cell(text), f"`{' '.join(map(str, values))}`" if any(str(value) for value in values) else "–"


def cell(text: str) -> str:
    """A text in a table."""
    return prose(text).replace("|", "\\|").replace("\n", " ")


def prose(text: str) -> str:
    """A docstring as Markdown: its indented lines are commands, and documents that it names are links."""
    parts = re.split(r"((?:^ {4,}.*\n?|^\n(?= {4}))+)", text.strip(), flags=re.MULTILINE)
    shown = [_commands(part) if index % 2 else _linked(part) for index, part in enumerate(parts)]
    return "\n".join(part.strip("\n") for part in shown if part.strip())


def _commands(text: str) -> str:
    lines = [line[4:] for line in text.strip("\n").split("\n")]
    kind = "bash" if any(re.match(r"(pe-spatial|python|torchrun|srun|pip) ", line) for line in lines) else "text"
    return "\n".join(["", f"```{kind}", *lines, "```", ""])


def _linked(text: str) -> str:
    escaped = re.sub(r"<(?=\w)", "&lt;", text)
    escaped = re.sub(r"(?<![\w`*/])(\*+)(?=[\w.])", lambda match: "\\*" * len(match[1]), escaped)
    return re.sub(r"`?\bdocs/([\w/]+)\.md`?", r"[\1](../../\1.md)", escaped)
