"""A checkpoint in one file or in several, of which a part can be read."""

from collections.abc import Collection, Iterable
from pathlib import Path

from torch import Tensor

from pe_spatial.backbones.weights.layouts import unwrap
from pe_spatial.common.shards import ShardIndex, is_index
from pe_spatial.common.tensors import read_tensor_file


class Checkpoint:
    """The tensors of a checkpoint, whatever files they are in.

    Args:
        path: A tensor file; or an index of several, none of which is opened before it is needed.

    Attributes:
        path: Likewise.
        keys: Names of the tensors.
        container: Name of the entry of a single file that holds them; empty at the top level.

    Raises:
        WeightsError: The file or the index cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = ShardIndex(path) if is_index(path) else None
        self._tensors: dict[str, Tensor] = {}
        self.container = ""
        if self._index is None:
            self._tensors, self.container = unwrap(read_tensor_file(path))
        self.keys: Collection[str] = (self._index.files if self._index else self._tensors).keys()

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, in this order; only files that hold one of them are opened.

        Raises:
            WeightsError: A file is missing, damaged, or does not hold what the index says.
        """
        return self._index.read(keys) if self._index else {key: self._tensors[key] for key in keys}

    def count_files(self, keys: Iterable[str]) -> str:
        """How many of the files hold these tensors: "2 of 4 files"; empty for a single file."""
        if self._index is None:
            return ""
        return f"{len({self._index.files[key] for key in keys})} of {len(self._index.shards)} files"
