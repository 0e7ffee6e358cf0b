"""The shell commands of README, CONTRIBUTING, the Makefile, config headers and docstrings, as argument lists."""

import ast
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from pe_spatial.commands.shell import COMMANDS

ROOT = Path(__file__).parents[2]
# what a command begins with, after variables such as COCO_ROOT=… and before its arguments
PROGRAM = re.compile(r"(?:\w+=\S+ +)*(?:\$\(BIN\)/)?(?:pe-spatial|python|torchrun|srun) ")


class Command(NamedTuple):
    """A command of ours in a document.

    Args:
        place: File and line.
        name: Of the command (`train`), or the file of a tool that is none (`tools/dev/constant_depth.py`).
        arguments: Without what is in brackets.
    """

    place: str
    name: str
    arguments: tuple[str, ...]


def documented_commands():
    """All of them, in the order of their files."""
    return [command for place, text in _texts() for command in _read(place, text)]


# --- where commands stand ---------------------------------------------------------------------------------------------
def _texts():
    """(place, shell text) of every line that is or holds a command, continued lines joined."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        yield from _of_markdown(ROOT / name)
    for path in sorted((ROOT / "docs").rglob("*.md")):
        yield from _of_markdown(path)
    yield from _of_lines(ROOT / "Makefile", r"\t+")
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        yield from _of_lines(path, r"# {2,}(?:on \d+ GPUs: )?")
    for folder in ("pe_spatial", "tools", "configs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from _of_docstrings(path)


def _of_markdown(path):
    """Lines of shell blocks, fenced or indented, and code in running text that calls us."""
    in_shell = in_block = False
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        place = f"{path.name}:{number + 1}"
        if line.lstrip().startswith("```"):
            in_block = not in_block
            in_shell = in_block and line.strip() in ("```bash", "```sh", "```shell")
        elif in_shell:
            yield place, _joined(lines, number)
        elif not in_block:
            if line.startswith("    ") and PROGRAM.match(line.strip()):
                yield place, _joined(lines, number)
            for code in re.findall(r"`([^`]+)`", line):
                if code.startswith("pe-spatial "):
                    yield place, code


def _of_lines(path, indent):
    lines = [re.sub(rf"^{indent}", "", line) for line in path.read_text(encoding="utf-8").split("\n")]
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")):
        if re.match(indent, line):
            yield f"{path.relative_to(ROOT)}:{number + 1}", _joined(lines, number)


def _of_docstrings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            lines = (ast.get_docstring(node) or "").split("\n")
            for number, line in enumerate(lines):
                if line.startswith("    "):
                    yield f"{path.relative_to(ROOT)}, {line.strip()!r}", _joined(lines, number)


def _joined(lines, number):
    text = lines[number].strip()
    while text.endswith("\\") and number + 1 < len(lines):
        number += 1
        text = f"{text[:-1]} {lines[number].lstrip('# ').strip()}"
    return text


# --- what they say ----------------------------------------------------------------------------------------------------
def _read(place, text):
    if not PROGRAM.match(text) or re.search(r"-m (pip|pytest|service)\b", text):
        return
    text = re.split(r"\s#\s| {3,}(?=[^\s-])", text)[0]  # a remark behind the command
    text = re.sub(r"\[[\w-]*=?[^\]=]*(\.\.\.|…|WORD)[^\]]*\]", "", text)  # [key=value ...]
    words = shlex.split(re.sub(r"\$*\(\(.*\)\)", "1", text))
    for position, word in enumerate(words):
        rest = tuple(words[position + 1 :])
        if word.endswith("pe-spatial") or (word == "pe_spatial" and words[position - 1] == "-m"):
            count = 2 if " ".join(rest[:2]) in COMMANDS else 1  # `convert data` is a command of two words
            yield Command(place, " ".join(rest[:count]), rest[count:])
        elif word.startswith("tools/dev/"):
            yield Command(place, word, rest)
        elif word.startswith("tools/"):
            source = (ROOT / word).read_text(encoding="utf-8")
            yield Command(place, re.search(r'run_command\("([\w-]+)"', source)[1], rest)
        elif word.endswith(".py"):
            yield Command(place, word, rest)
        else:
            continue
        return
    raise AssertionError(f"{place}: {text!r} calls nothing that is known")
