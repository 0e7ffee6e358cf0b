"""Records that are made when they are asked for."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class LazyRecords(Sequence[dict[str, Any]]):
    """A list of records of which only the rows are in memory.

    Args:
        make: The record of a row; must be picklable where loader workers are spawned.
        rows: Of a table, in the order of the records.
    """

    def __init__(self, make: Callable[[int], dict[str, Any]], rows: NDArray[np.integer[Any]]) -> None:
        self.rows = rows
        self._make = make

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> "LazyRecords": ...

    def __getitem__(self, index: int | slice | Sequence[int]) -> "dict[str, Any] | LazyRecords":
        if isinstance(index, int):
            return self._make(int(self.rows[index]))
        return LazyRecords(self._make, self.rows[index])

    def __deepcopy__(self, memo: dict[int, Any]) -> "LazyRecords":
        """The same: records cannot be changed through it."""
        return self
