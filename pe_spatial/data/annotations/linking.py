"""What tables of all kinds share: texts in columns, and ids that are replaced by rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations.columns import ColumnWriter
from pe_spatial.data.annotations.entries import Category


def append_texts(writer: ColumnWriter, name: str, texts: Sequence[bytes]) -> None:
    """Add texts to a column of bytes; `settle_ends` makes of their sizes where each ends."""
    writer.append(name, np.frombuffer(b"".join(texts), np.uint8), "u1")
    writer.append(f"{name}_size", [len(text) for text in texts], "i4")


def settle_ends(writer: ColumnWriter, *names: str) -> None:
    """Replace the column `NAME_size` of each name by `NAME_end`."""
    for name in names:
        writer.append(f"{name}_end", np.cumsum(writer.column(f"{name}_size"), dtype=np.int64), "i8")
        writer.drop(f"{name}_size")


def check_categories(source: str, categories: Sequence[Category]) -> None:
    """Refuse ids and names that are used twice: results are told apart by them.

    Raises:
        AnnotationError: See above.
    """
    for what in ("id", "name"):
        seen: dict[Any, Category] = {}
        for category in categories:
            value = getattr(category, what)
            if value in seen:
                others = f"{seen[value].id} and {category.id}" if what == "name" else f"{value} twice"
                raise AnnotationError(f"{source}: categories {others} have the {what} {value!r}; it must be unique")
            seen[value] = category


class Ids:
    """The ids of the images or of the categories of a file.

    Args:
        source: What is read, for messages.
        kind: `image` or `category`.
        ids: In the order of their rows.

    Raises:
        AnnotationError: An id that is used twice.
    """

    def __init__(self, source: str, kind: str, ids: NDArray[np.int64]) -> None:
        self.source = source
        self.kind = kind
        self._order = np.argsort(ids, kind="stable")
        self._known = ids[self._order]
        twice = np.flatnonzero(self._known[1:] == self._known[:-1])
        if len(twice):
            raise AnnotationError(f"{source}: {kind} id {self._known[twice[0]]} is used twice; ids must be unique")

    def rows_of(
        self, wanted: NDArray[np.int64], block: slice = slice(None), what: str = "annotations"
    ) -> NDArray[np.int64]:
        """The rows that ids refer to.

        Args:
            wanted: All ids of a column.
            block: Those that are looked up.
            what: Has them, for the message.

        Raises:
            AnnotationError: An id that the file does not list.
        """
        ids, known = wanted[block], self._known
        places = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
        lost = np.flatnonzero(known[places] != ids) if len(known) else np.arange(len(ids))
        if len(lost):
            total = int((~np.isin(wanted, known)).sum())
            known_ids = f"{known[0]}…{known[-1]} ({len(known)} ids)" if len(known) else "none"
            raise AnnotationError(
                f"{self.source}: {total} of {len(wanted)} {what} have a {self.kind}_id that is not in the file, "
                f"for example {ids[lost[0]]} in number {(block.start or 0) + lost[0] + 1} of the list; known ids: "
                f"{known_ids}"
            )
        return self._order[places]
