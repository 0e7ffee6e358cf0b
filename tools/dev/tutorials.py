"""Run the blocks of tutorials as a reader would, and say how long they take.

    python tools/dev/tutorials.py docs/tutorials/detection.md

Every tutorial begins in an empty folder. A `bash` block runs in bash and a `python` block in Python, in order. The
output is shown, and after each block its seconds: of the processor (all cores together) and by the clock. A line before
a block says more about it. `<!-- needs: weights -->` and `<!-- needs: gpu -->` leave it out. After `<!-- fails -->` it
must end with an error whose words stand in the `text` block that follows.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module

PROGRAMS = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": ("python", "-c")}
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>needs: \w+|fails) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


class BlockError(RuntimeError):
    """A block did not end as the tutorial says."""


@dataclass(frozen=True)
class Block:
    """A block of code of a tutorial.

    Attributes:
        place: File and line.
        language: `bash` or `python`.
        text: What stands in it.
        needs: `weights` or `gpu`, if it runs only with these.
        message: What it prints before it fails; None where it must succeed.
    """

    place: str
    language: str
    text: str
    needs: str | None = None
    message: str | None = None


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a tutorial that a reader runs, in their order.

    Raises:
        ValueError: A block that fails is followed by no `text` block with its message.
    """
    text = path.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    blocks = []
    for match, following in zip(found, [*found[1:], None], strict=True):
        if match["language"] not in PROGRAMS:
            continue
        mark, message = match["mark"] or "", None
        place = f"{path.name}:{text.count(chr(10), 0, match.start('language')) + 1}"
        if mark == "fails":
            if following is None or following["language"] != "text":
                raise ValueError(f"{place}: a block that fails needs a text block with its message after it")
            message = following["text"]
        needs = mark.partition(": ")[2] or None
        blocks.append(Block(place, match["language"], match["text"], needs, message))
    return blocks


def shortened(block: Block, replacements: Mapping[str, str]) -> Block:
    """A block with smaller numbers: each key of `replacements` that stands in it becomes its value."""
    return replace(block, text=shortened_text(block.text, replacements))


def shortened_text(text: str, replacements: Mapping[str, str]) -> str:
    """The same for a text."""
    for long, short in replacements.items():
        text = text.replace(long, short)
    return text


def run_block(block: Block, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a block in a folder; returns what it printed.

    Args:
        block: What is run.
        folder: Where.
        environment: Variables; None takes those of this process, with the commands of its Python first.

    Raises:
        BlockError: It failed, or it should have and did not, or with other words.
    """
    command = [*PROGRAMS[block.language], block.text]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment or _environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if (done.returncode == 0) != (block.message is None):
        raise BlockError(f"{block.place}: exit status {done.returncode}\n{block.text}\n{done.stdout}")
    missing = [line for line in (block.message or "").splitlines() if not _occurs(line, done.stdout)]
    if missing:
        raise BlockError(f"{block.place}: does not print {missing[0]!r} but\n{done.stdout}")
    return done.stdout


def _occurs(line: str, output: str) -> bool:
    """Whether an output has a line of a tutorial, in which `…` stands for anything and spaces do not count."""
    parts = [re.sub(r"\s+", "", part) for part in line.split("…")]
    return re.search(".*".join(map(re.escape, parts)), re.sub(r"\s+", "", output)) is not None


def run_tutorial(blocks: Sequence[Block], folder: Path, tell: Callable[[str], object]) -> None:
    """Run all blocks that need nothing, and tell each, its output and its seconds."""
    total = 0.0
    for block in blocks:
        tell(f"--- {block.place}\n{block.text}")
        if block.needs:
            tell(f"--- left out: needs {block.needs}")
            continue
        before, start = _processor_seconds(), time.perf_counter()
        tell(run_block(block, folder))
        used = _processor_seconds() - before
        total += used
        tell(f"--- {used:.1f} s of the processor, {time.perf_counter() - start:.1f} s by the clock")
    tell(f"=== {total:.0f} s of the processor in all")


def _environment() -> dict[str, str]:
    """With the commands that are installed beside this Python, also where its environment is not activated."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("tutorials", type=Path, nargs="+", metavar="FILE", help="pages of docs/tutorials")
    parser.add_argument("--folder", type=Path, help="an empty folder to run in; default: a temporary one")


def run(options: argparse.Namespace) -> int:
    """Run the tutorials that the command line names."""
    for path in options.tutorials:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            run_tutorial(read_blocks(path), folder, partial(print, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(run_module(sys.modules[__name__], "tools/dev/tutorials.py"))
