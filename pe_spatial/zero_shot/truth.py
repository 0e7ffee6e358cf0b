"""Which class each file belongs to: from the folders of ImageNet, or from a list in Kinetics' form."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pe_spatial.common.errors import AnnotationError, few, suggest
from pe_spatial.common.reading import read_text
from pe_spatial.common.sources import Entry

_HEADERS = {
    "video",
    "image",
    "picture",
    "file",
    "file_name",
    "path",
    "youtube_id",
}  # first cells of a line without a file


def read_list(path: Path) -> dict[Path, str]:
    """The class of each file of a list: a CSV with a file and its class in each line; a first line may name them.

    Args:
        path: Of the list; the files are relative to its folder.

    Raises:
        AnnotationError: A line that is none, a file that comes twice with different classes, or no line at all.
        UnreadableFile: The list is damaged.
    """
    found: dict[Path, str] = {}
    for cell, name in read_pairs(path, "class"):
        if found.setdefault(path.parent / cell, name) != name:
            raise AnnotationError(
                f"{path}: {cell} has the classes {found[path.parent / cell]!r} and {name!r}; keep one"
            )
    if not found:
        raise AnnotationError(f"{path} lists no files; write lines such as jump.mp4,high jump")
    return found


def read_pairs(path: Path, what: str) -> list[tuple[str, str]]:
    """The lines of a CSV: the name of a file, and what is said of it; a first line may name the two.

    Args:
        path: Of the list.
        what: Is said of a file, for messages.

    Raises:
        AnnotationError: A line that has not two cells with something in each.
        UnreadableFile: The list is damaged.
    """
    rows = [row for row in csv.reader(StringIO(read_text(path))) if row]
    if rows and rows[0][0].strip().lower() in _HEADERS:
        rows = rows[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise AnnotationError(
                f"{path}: row {number} has {len(row)} cells ({','.join(row)[:60]!r}), but needs a file and its {what}"
            )
    return [(row[0].strip(), row[1].strip()) for row in rows]


def of_folders(entries: Sequence[Entry]) -> dict[Path, str]:
    """The class of each file, the first folder of its name: `tench/0001.jpg`.

    Raises:
        AnnotationError: A file that lies in no folder of a class.
    """
    loose = [entry.name for entry in entries if "/" not in entry.name or entry.name.startswith("..")]
    if loose:
        raise AnnotationError(f"{len(loose)} files are not in the folder of a class ({few(loose)}); move them into one")
    return {entry.path: entry.name.split("/")[0] for entry in entries}


def match_classes(names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The row in `classes` of each name of the data.

    Names that are classes stand for themselves. Where none is one and there are as many, such as ImageNet's
    n01440764, the sorted names are the classes in their order.

    Args:
        names: That occur in the data.
        classes: That are told apart.

    Raises:
        AnnotationError: A name that is no class.
    """
    rows = {name: row for row, name in reversed(list(enumerate(classes)))}  # of two equal names the first counts
    unknown = sorted(set(names) - rows.keys())
    if unknown and len(unknown) == len(set(names)) == len(classes):
        return {name: row for row, name in enumerate(unknown)}
    if unknown:
        raise AnnotationError(
            f"{len(unknown)} of the classes of the data are not in --classes ({few(unknown)}); "
            f"for the first: {suggest(unknown[0], rows)}"
        )
    return {name: rows[name] for name in names}


def measure(ranks: Mapping[int, Sequence[int]], classes: Sequence[str]) -> dict[str, object]:
    """How often the right class was among the first.

    Args:
        ranks: By row of a class, for each of its files, how many classes stood before the right one.
        classes: Names by row.

    Returns:
        `files`, `top1`, `top5` and `mean_per_class` (of top-1, over the classes that have files) from 0 to 1, and
        `classes`: the same of each.
    """
    rows: list[dict[str, Any]] = []
    for row, found in sorted(ranks.items()):
        first, five = (sum(rank < most for rank in found) for most in (1, 5))
        rows.append({"name": classes[row], "files": len(found), "top1": first / len(found), "top5": five / len(found)})
    files = sum(len(found) for found in ranks.values())
    return {
        "files": files,
        "top1": sum(row["top1"] * row["files"] for row in rows) / files,
        "top5": sum(row["top5"] * row["files"] for row in rows) / files,
        "mean_per_class": sum(row["top1"] for row in rows) / len(rows),
        "classes": rows,
    }
