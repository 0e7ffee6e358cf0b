"""The table of fidelity as Markdown, and its place in a document."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pe_spatial.commands.benchmark.document import write_between
from pe_spatial.commands.benchmark.fidelity.rule import Difference

_COMMAND = "pe-spatial benchmark fidelity --document docs/measurements/fidelity.md"
BEGIN = f"<!-- fidelity: what follows is written by `{_COMMAND}` -->"
END = "<!-- fidelity: end -->"


def figure(value: float, unit: str = "") -> str:
    """A difference as it stands in a table: 0, 12, 0.05, 3·10⁻⁶."""
    if value == 0 or not math.isfinite(value) or value >= 1e-3:
        text = f"{value:.2g}"
    else:
        digit, exponent = f"{value:.0e}".split("e")
        text = f"{digit}·10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return f"{text} {unit}".strip()


def markdown(lines: Sequence[Difference], versions: Mapping[str, str]) -> str:
    """The table, and below it when and with what it was measured."""
    rows = ["| compared with the official code | numbers | largest difference | passes up to |", "|---|---|---|---|"]
    for line in lines:
        largest = figure(line.largest, line.unit) if line.passed else f"**{figure(line.largest, line.unit)}**"
        rows.append(f"| {line.what} | {line.numbers:,} | {largest} | {figure(line.allowed, line.unit)} |")
    measured = ", ".join(f"{name} {value}".strip() for name, value in versions.items())
    return "\n".join([*rows, "", f"Measured by `pe-spatial benchmark fidelity`: {measured}."])


def write_table(path: Path, table: str) -> None:
    """Replace what stands between the two marks of a document; raises as `write_between` does."""
    write_between(path, BEGIN, END, table)
