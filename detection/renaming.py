"""Renaming the tensors of a checkpoint by the prefixes of their keys."""

from collections.abc import Mapping

from torch import Tensor

from pe_spatial.common.errors import few
from pe_spatial.common.tensors import WeightsError


def rename(tensors: Mapping[str, Tensor], prefixes: Mapping[str, str], convertible: str) -> dict[str, Tensor]:
    """Tensors under other keys.

    Args:
        tensors: By their present keys.
        prefixes: New prefix by present one; the first that fits counts.
        convertible: What can be converted at all, for the message.

    Raises:
        WeightsError: Keys that begin with none of the prefixes.
    """
    renamed: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix is None:
            unknown.append(key)
        else:
            renamed[prefixes[prefix] + key.removeprefix(prefix)] = tensor
    if unknown:
        raise WeightsError(f"{len(unknown)} keys cannot be converted ({few(unknown)}); only {convertible} can")
    return renamed
