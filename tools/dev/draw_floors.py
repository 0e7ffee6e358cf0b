"""Make the picture of the floors from the table of docs/developing/architecture.md.

python tools/dev/draw_floors.py
"""

import argparse
import re
import sys
from pathlib import Path

from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import run_module

FOLDER = Path(__file__).parents[2] / "docs/developing"
WIDTH, MARGIN, ROW, GAP, LETTER = 880, 20, 34, 8, 8.4  # pixels; LETTER is the width of one in the font of packages
NAMES = {5: "scripts, examples", 4: "commands", 3: "tasks", 2: "shared by tasks", 1: "parts", 0: "base"}
# fill and outline of a floor's packages; dark text is readable on all
COLORS = [
    "#e8e8e8 #8a8a8a",
    "#d9e8f5 #5b8db8",
    "#dcefdc #5f9e68",
    "#fdeccf #d09a3a",
    "#f8dcd8 #c56a5e",
    "#ece2f3 #9372ad",
]


def add_arguments(parser: CommandParser) -> None:
    """Add no options."""


def floors(page: str) -> dict[int, list[str]]:
    """Packages of every floor, the highest floor first, from the rows of the table."""
    rows = re.findall(r"^\| (\d) \| (.+?) \| ", page, re.MULTILINE)
    return {int(floor): re.findall(r"`([\w]+)`", re.sub(r"\(.*?\)", "", cell)) for floor, cell in rows}


def picture(packages: dict[int, list[str]]) -> str:
    """The picture as SVG."""
    parts, top = [], MARGIN
    for floor, names in packages.items():
        fill, line = COLORS[floor].split()
        boxes, bottom = _boxes(names, top + GAP, fill, line)
        height = bottom - top
        parts += [
            f'<rect class="band" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{height}" rx="6"/>',
            f'<text class="number" x="{MARGIN + 14}" y="{top + height / 2 + 8:g}">{floor}</text>',
            f'<text class="name" x="{MARGIN + 42}" y="{top + height / 2 + 5:g}">{NAMES[floor]}</text>',
            *boxes,
        ]
        top = bottom + GAP
    parts.append(f'<text class="name" x="{MARGIN}" y="{top + 18}">A package imports from the floors below it.</text>')
    height = top + 18 + MARGIN
    head = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">
<style>
  .page {{ fill: #ffffff }} .band {{ fill: #f7f7f7; stroke: #d5d5d5 }}
  text {{ font-family: sans-serif; fill: #222222 }} .number {{ font-size: 22px; font-weight: bold }}
  .name {{ font-size: 15px }} .package {{ font-family: monospace; font-size: 14px; text-anchor: middle }}
</style>
<rect class="page" width="{WIDTH}" height="{height}" rx="8"/>"""
    return "\n".join([head, *parts, "</svg>", ""])


def _boxes(names: list[str], top: float, fill: str, line: str) -> tuple[list[str], float]:
    """One box a package, in as many rows as they need, and where the next floor may begin."""
    left = start = MARGIN + 190
    boxes = []
    for name in names:
        width = round(len(name) * LETTER + 20)
        if left + width > WIDTH - MARGIN - GAP:
            left, top = start, top + ROW + GAP
        boxes += [
            f'<rect x="{left}" y="{top}" width="{width}" height="{ROW}" rx="5" fill="{fill}" stroke="{line}"/>',
            f'<text class="package" x="{left + width / 2:g}" y="{top + ROW / 2 + 5:g}">{name}</text>',
        ]
        left += width + GAP
    return boxes, top + ROW + GAP


def run(options: argparse.Namespace) -> int:
    """Write the picture beside the page."""
    page = (FOLDER / "architecture.md").read_text(encoding="utf-8")
    (FOLDER / "floors.svg").write_text(picture(floors(page)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_module(sys.modules[__name__], "tools/dev/draw_floors.py"))
