"""What an examination finds: findings of one rule are counted together, with a few examples."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning", "note"]

_EXAMPLES = 3
_BAR = 24
# of longer class lists only classes that occur are shown, and of these the most and the least frequent
_LONGEST_TABLE = 40


@dataclass(frozen=True)
class Finding:
    """One instance of a rule being broken.

    Args:
        level: "error": the data or the config must be corrected. "warning": most likely. "note": good to know.
        rule: What is wrong, the same words for every instance, such as `files that cannot be read`.
        example: The file, the value and the remedy; empty where the rule says it all.
    """

    level: Level
    rule: str
    example: str = ""


@dataclass
class _Group:
    level: Level
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """Findings by rule, in the order in which the rules were first broken."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def add(self, findings: Iterable[Finding]) -> None:
        """Count more."""
        for finding in findings:
            group = self._groups.setdefault(finding.rule, _Group(finding.level))
            group.count += 1
            if finding.example and len(group.examples) < _EXAMPLES:
                group.examples.append(finding.example)

    def join(self, others: "Findings") -> None:
        """Take over the findings of others, of other rules."""
        self._groups |= others._groups

    def count(self, level: Level) -> int:
        """How many rules of a level are broken."""
        return sum(group.level == level for group in self._groups.values())

    def lines(self, levels: Sequence[Level] = ("error", "warning", "note")) -> Iterator[str]:
        """Readable lines, the gravest first."""
        for level in levels:
            for rule, group in self._groups.items():
                if group.level == level:
                    yield f"{level}: {rule}" + (f" ({group.count})" if group.count > 1 else "")
                    yield from (f"    {example}" for example in group.examples)
                    hidden = group.count - len(group.examples)
                    if group.examples and hidden:
                        yield f"    … and {hidden} more"


@dataclass
class Histogram:
    """How often each class occurs; without counts they begin at 0.

    Args:
        unit: What is counted, such as `pixels` or `objects`.
        names: Classes by index.
        counts: Units of each class.
        images: Images with each class.
        kind: What a row is, for the head of the table.
        images_unit: What `images` counts, for the head of the table.
    """

    unit: str
    names: list[str]
    counts: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    kind: str = "class"
    images_unit: str = "images"

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * len(self.names)
        self.images = self.images or [0] * len(self.names)

    def add(self, counts: Iterable[int]) -> None:
        """Count the units of each class in one more image."""
        for label, count in enumerate(counts):
            self.counts[label] += count
            self.images[label] += count > 0

    @property
    def absent(self) -> list[str]:
        """The classes that do not occur."""
        return [name for name, count in zip(self.names, self.counts, strict=True) if count == 0]

    def lines(self) -> Iterator[str]:
        """A table with bars."""
        total, largest = max(sum(self.counts), 1), max([*self.counts, 1])
        width = min(max(map(len, [self.kind, *self.names])), 24)
        rows = list(range(len(self.names)))
        if len(rows) > _LONGEST_TABLE:
            rows = sorted((row for row in rows if self.counts[row]), key=lambda row: -self.counts[row])
        if len(rows) > _LONGEST_TABLE:
            rows = [*rows[: _LONGEST_TABLE // 2], -1, *rows[-_LONGEST_TABLE // 2 :]]
        yield f"{self.kind:<{width}}  {self.unit:>14}   share  {self.images_unit}"
        for row in rows:
            if row < 0:
                yield "…"
                continue
            share = self.counts[row] / total
            name, bar = self.names[row][:width], "█" * round(_BAR * self.counts[row] / largest)
            images = str(self.images[row]).rjust(len(self.images_unit))
            yield f"{name:<{width}}  {self.counts[row]:>14,}  {share:6.2%}  {images}  {bar}".rstrip()
