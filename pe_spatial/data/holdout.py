"""A validation part of a dataset that has none: some of its pictures, chosen once, of which no copy is trained on."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.common.reading import open_regular

_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class Holdout:
    """Which part of its records a dataset has; `train` and `val` of one share and seed have nothing in common.

    Pictures whose files are equal byte for byte are on one side.

    Args:
        part: "train": all but those that are held out; "val": these.
        share: Of the pictures that is held out, above 0 and below 1; at least one is, and at least one is not.
        seed: Of the choice.
    """

    part: Literal["train", "val"]
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("holdout.part", self.part, ("train", "val"))
        if not 0 < self.share < 1:
            raise OptionError(f"holdout.share {self.share} is not between 0 and 1; 0.2 holds out a fifth")
        if self.seed < 0:
            raise OptionError(f"holdout.seed {self.seed} is negative; give 0 or more")

    def rows(self, paths: Sequence[str]) -> list[int]:
        """The rows of this part, in their order.

        Args:
            paths: Of the picture of every record.

        Raises:
            OptionError: All pictures are equal, or there is only one.
        """
        groups = equal_files(paths)
        if len(groups) < 2:
            raise OptionError(
                f"nothing can be held out of {len(paths)} pictures of which {len(groups)} differ; give a validation "
                "split, or more pictures"
            )
        wanted = min(max(round(self.share * len(paths)), 1), len(paths) - 1)
        held: list[int] = []
        for number in np.random.default_rng(self.seed).permutation(len(groups))[: len(groups) - 1].tolist():
            if len(held) >= wanted:
                break
            held += groups[number]
        chosen = set(held) if self.part == "val" else set(range(len(paths))) - set(held)
        return sorted(chosen)


def equal_files(paths: Sequence[str]) -> list[list[int]]:
    """Rows of files by content: one list for each that differs from the others, in the order of their first rows.

    Only files of one size are read. What cannot be read is equal to what has its path.
    """
    sizes = [os.path.getsize(path) if os.path.isfile(path) else -1 for path in paths]
    by_size: dict[int, set[str]] = defaultdict(set)
    for path, size in zip(paths, sizes, strict=True):
        by_size[size].add(path)
    groups: dict[str, list[int]] = {}
    for row, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        is_alone = size < 0 or len(by_size[size]) == 1
        groups.setdefault(path if is_alone else f"{size}/{_digest(path)}", []).append(row)
    return list(groups.values())


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
