"""Measure how long the sentences of documents are: `make lint` runs this on the pages that people read.

    python tools/dev/readability.py README.md docs/tutorials --median 18 --longest 40

It counts the sentences of running text and of lists. It leaves out code, tables, headings, pictures, comments and HTML.
Code inside a sentence counts as one word. In the source of a notebook (`.py`) it reads the Markdown cells.

The exit status is 1 where a page has a longer median, a longer sentence, or one of the words after `--without`.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import UserError

# what ends with a full stop inside a sentence
ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|vs|etc|cf|Fig|No|al|approx)\.$", re.IGNORECASE)
# lines of Markdown that are no prose: tables, headings, rules, markers of tabs and boxes, HTML, definitions of links
NO_PROSE = re.compile(
    r"\||#{1,6} |(?:-{3,}|\*{3,}|={3,})$|={3}\+? |(?:!{3}|\?{3}\+?) |</?\w|\[[^\]]+\]: |:{3} |\{[:%#]"
)
ITEM = re.compile(r"(?:[-*+]|\d+[.)]) +(?:\[[ xX]\] +)?")


class Sentence(NamedTuple):
    """A sentence and where it begins."""

    line: int
    text: str

    @property
    def words(self) -> int:
        """How many words it has: parts between spaces that hold a letter or a digit."""
        return sum(any(map(str.isalnum, word)) for word in self.text.split())


def sentences(text: str) -> list[Sentence]:
    """The sentences of a Markdown text, in order."""
    return [sentence for line, paragraph in _paragraphs(text) for sentence in _split(line, paragraph)]


def markdown_cells(source: str) -> str:
    """The Markdown cells of a notebook that jupytext keeps as Python; lines of code are empty, so that numbers stay."""
    lines, inside = [], False
    for line in source.split("\n"):
        if line.startswith("# %%"):
            inside = "[markdown]" in line
            lines.append("")
        else:
            lines.append(re.sub(r"^# ?", "", line) if inside and line.startswith("#") else "")
    return "\n".join(lines)


def _paragraphs(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of every paragraph and item of a list."""
    found: list[str] = []
    start = 0
    for number, line in enumerate(_visible(text), 1):
        item = ITEM.match(line)
        if found and (not line or item):
            yield start, found
            found = []
        if line:
            start = start if found else number
            found.append(line[item.end() :] if item else line)
    if found:
        yield start, found


def _visible(text: str) -> Iterator[str]:
    """Every line without indent and quotation marks, empty where it is no prose."""
    fence = ""
    lines = re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL).split("\n")
    front_matter = lines[0] == "---"
    for number, raw in enumerate(lines):
        line = re.sub(r"^(?:> ?)+", "", raw.strip()).strip()
        mark = re.match(r"`{3,}|~{3,}", line)
        if front_matter:
            front_matter = number == 0 or line != "---"
            yield ""
        elif fence or mark:
            if mark:
                fence = "" if fence and line.startswith(fence) else fence or mark[0]
            yield ""
        else:
            yield "" if NO_PROSE.match(line) else line


def _split(start: int, lines: list[str]) -> Iterator[Sentence]:
    # the number of its line goes with every word
    words = [(start + number, word) for number, line in enumerate(lines) for word in _plain(line).split()]
    text: list[str] = []
    first = start
    for position, (line, word) in enumerate(words):
        first = first if text else line
        text.append(word)
        ends = re.search(r"[.!?…][\"')\]*_’”]*$", word) and not ABBREVIATION.search(word)
        following = words[position + 1][1].lstrip("\"'(*_“") if position + 1 < len(words) else ""
        # a small letter goes on: "the file pyproject.toml … is"
        if not following or (ends and not following[0].islower()):
            sentence = Sentence(first, " ".join(text))
            if sentence.words:
                yield sentence
            text = []


def _plain(line: str) -> str:
    line = re.sub(r"(`+)(.+?)\1", lambda match: match[0].replace(" ", "_"), line)  # one word
    line = re.sub(r"!\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?", "", line)  # pictures
    line = re.sub(r"\[([^\]]*)\]\([^)]*\)(?:\{[^}]*\})?", r"\1", line)  # links
    line = re.sub(r"\$[^$]+\$", lambda match: match[0].replace(" ", "_"), line)
    return re.sub(r"</?\w[^>]*>", "", line)


def documents(names: list[str]) -> list[Path]:
    """The files, and of folders their pages."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.exists():
            raise UserError(f"{name} does not exist; name Markdown files or folders of them")
        found += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return found


def findings(path: Path, median: float, longest: int, without: list[str]) -> tuple[str, list[str]]:
    """A row of measures of a page, and what is wrong with it."""
    text = path.read_text(encoding="utf-8")
    prose = sentences(markdown_cells(text) if path.suffix == ".py" else text)
    counts = [sentence.words for sentence in prose] or [0]
    wrong = [
        f"{path}:{sentence.line}: {sentence.words} words, at most {longest}; split it: {sentence.text}"
        for sentence in prose
        if sentence.words > longest
    ]
    middle = statistics.median(counts)
    if middle > median:
        wrong.append(f"{path}: the median sentence has {middle:g} words, at most {median:g}; shorten the sentences")
    for word in without:
        for number, line in enumerate(text.split("\n"), 1):
            if re.search(rf"\b{word}\b", line, re.IGNORECASE):
                wrong.append(f'{path}:{number}: "{word}" is not plain English here; use the field\'s term')
    return f"{path}: {len(prose)} sentences, median {middle:g} words, longest {max(counts)}", wrong


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    parser.add_argument("files", nargs="+", metavar="FILES", help="Markdown files, sources of notebooks or folders")
    parser.add_argument("--median", type=float, default=18, metavar="WORDS", help="limit of the median sentence (18)")
    parser.add_argument("--longest", type=int, default=40, metavar="WORDS", help="limit of every sentence (40)")
    parser.add_argument("--without", nargs="+", default=[], metavar="WORD", help="words that no page may have")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")


def run(options: argparse.Namespace) -> int:
    """Print the measures of every page; 1 where one is above the limits."""
    status = 0
    for path in documents(options.files):
        row, wrong = findings(path, options.median, options.longest, options.without)
        if not options.quiet:
            print(row)
        for line in wrong:
            print(line, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(run_module(sys.modules[__name__], "tools/dev/readability.py"))
