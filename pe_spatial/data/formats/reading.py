"""What a file or folder can be read as."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import OptionError, suggest
from pe_spatial.data.annotations import CocoTable
from pe_spatial.data.formats.content import Instances

Config = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What is trained on, evaluated or examined.

    Attributes:
        table: Its images, objects and classes.
        image_root: Folder of the pictures; None for a plain COCO file, which does not say it.
        notes: What was passed over or is worth knowing, counted; a line each.
        about: What was recognized, in one line; empty for a plain COCO file.
    """

    table: CocoTable
    image_root: Path | None = None
    notes: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Reading:
    """One way to read a file or folder; nothing is read before it is asked for.

    Attributes:
        format: Name of the format, as `--format` takes it.
        path: The file or folder that shows it.
        about: What it is, such as "YOLO, described by data.yaml".
        splits: Its parts.
        load: Reads a split of a detection-like format; None for the others.
        table: Reads it as a table, where that takes no `Instances` in between.
        folders: Of the others, where the pictures of a split lie, by its name.
        datasets: Of the others, the config of the dataset that reads a split, by its name.
        pictures: Number of pictures of a split; of the others only.
        advice: What the user has to add before it can be trained on; empty if nothing.
    """

    format: str
    path: Path
    about: str
    splits: tuple[str, ...]
    load: Callable[[str], Instances] | None = None
    datasets: Mapping[str, Config] = field(default_factory=dict)
    pictures: Mapping[str, int] = field(default_factory=dict)
    advice: str = ""
    table: Callable[[str], Source] | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)

    def instances(self, split: str | None = None) -> Instances:
        """Read a split of a detection-like format; may be left out where there is only one.

        Raises:
            OptionError: Not such a format, no such split, or several.
            AnnotationError, UnreadableFile: A fault in the files; names file, entry, rule and remedy.
        """
        split = self.chosen(split)
        assert self.load is not None
        return self.load(split)

    def chosen(self, split: str | None) -> str:
        """The split of a detection-like format that is meant; None means the only one.

        Raises:
            OptionError: Not such a format, no such split, or several.
        """
        if self.load is None:
            kind = next(iter(self.datasets.values()), {}).get("type", "another dataset")
            raise OptionError(f"{self.path} is {self.about}, which has no boxes; {kind} reads it")
        if split is None and len(self.splits) == 1:
            split = self.splits[0]
        if split is None:
            raise OptionError(f"{self.path} has the splits {', '.join(self.splits)}; choose one of them")
        if split not in self.splits:
            raise OptionError(f"{self.path} has no split {split!r}; {suggest(split, self.splits)}")
        return split

    def describe(self) -> list[str]:
        """What was recognized, with splits, images, objects and classes, a line each. Reads the files."""
        lines = [f"{self.path}: {self.about}"]
        for split in self.splits:
            if self.load is None:
                lines.append(f"  {split}: {self.pictures[split]} pictures")
            else:
                content = self.load(split)
                lines += [f"  {split}: {content.summary()}", *(f"    {note}" for note in content.notes)]
        return [*lines, f"  {self.advice}"] if self.advice else lines
