"""Tensors in several files, with an index that says which file holds which: the "sharded" checkpoints of transformers.

An index is JSON: `{"weight_map": {"name of a tensor": "model-00001-of-00004.safetensors", ...}}`. It lies beside its
files, which are read by `pe_spatial.common.tensors`, and only those that hold a wanted tensor are opened.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pe_spatial.common.errors import UnreadableFile, few
from pe_spatial.common.reading import read_json, require_regular
from pe_spatial.common.tensors import WeightsError, read_tensor_file

INDEX_SUFFIX = ".index.json"
_SHARD = re.compile(r".+-\d+-of-(?!0*1\.)\d+\.\w+")  # not the only one of one


def is_index(path: Path) -> bool:
    """Whether a file is an index of shards, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def looks_like_shard(path: Path) -> bool:
    """Whether a file is one of several, by its name: `model-00001-of-00004.safetensors`."""
    return _SHARD.fullmatch(path.name) is not None


class ShardIndex:
    """Which file holds which tensor.

    Args:
        path: Of the index.

    Attributes:
        path: Of the index.
        files: Name of the file, without a folder, by the name of the tensor.

    Raises:
        WeightsError: It is no index, names no tensors, or names a file outside its folder.
        OSError: It is missing, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.files: dict[str, str] = read_json(path, {"weight_map": dict})["weight_map"]
        except UnreadableFile as error:
            raise WeightsError(f"{error}; download the index again") from error
        if not self.files:
            raise WeightsError(f"{path} lists no tensors (its weight_map is empty); download it again")
        for key, name in self.files.items():
            if not _is_file_name(name):
                raise WeightsError(
                    f"{path}: the file of {key} is {str(name)[:200]!r}, but must be the name of a file in the folder "
                    "of the index; download the index again, or correct the name"
                )

    @property
    def shards(self) -> list[str]:
        """Names of the files, in order."""
        return sorted(set(self.files.values()))

    def read(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, in this order; they are views of the mapped files.

        Files that hold none of them are neither opened nor needed.

        Raises:
            WeightsError: A file is missing, damaged, or does not hold what the index says. It is named.
        """
        wanted = list(keys)
        content = {name: self._read_shard(name) for name in sorted({self.files[key] for key in wanted})}
        return {key: content[self.files[key]][key] for key in wanted}

    def _read_shard(self, name: str) -> Mapping[str, Any]:
        path = self.path.parent / name
        stated = [key for key, file in self.files.items() if file == name]
        place = f"number {self.shards.index(name) + 1} of the {len(self.shards)} files of {self.path.name}"
        if not path.exists():
            raise WeightsError(
                f"{path} is missing: {place}, it holds {len(stated)} tensors ({few(stated)}); download it into that "
                f"folder"
            )
        require_regular(path)
        content = read_tensor_file(path)
        missing = [key for key in stated if not isinstance(content.get(key), Tensor)]
        if missing:
            raise WeightsError(
                f"{path} is not the file that {self.path.name} describes: {len(missing)} of the {len(stated)} tensors "
                f"that it should contain are missing ({few(missing)}); files may have been swapped or renamed; "
                "download both again"
            )
        return content


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
