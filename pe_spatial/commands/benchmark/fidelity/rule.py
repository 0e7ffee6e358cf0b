"""How the weights and inputs of the golden files were drawn, what they were drawn for, and what a comparison yields.

The files hold numbers that the official implementations returned, in float32 on a CPU, for small models. Neither those
implementations nor any released weight is needed to compare: every weight follows from the name that it has there.
"""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pe_spatial.common.errors import UnreadableFile

M = TypeVar("M", bound=nn.Module)

# the small encoder of the files, and how the official detectors have it
SMALL: dict[str, Any] = {
    "patch_size": 16,
    "width": 64,
    "depth": 4,
    "heads": 4,
    "mlp_ratio": 4.0,
    "image_size": 128,
}
ENCODER: dict[str, Any] = {"name": "golden", **SMALL, "cls_token": False, "layer_scale": 0.1}


class Difference(NamedTuple):
    """One line of the table.

    Args:
        what: Is compared.
        numbers: How many are compared.
        largest: Of the differences.
        allowed: The largest difference that passes.
        unit: Of both; "" for the numbers' own, `relative`, `px`, `of them` for numbers that are equal or not.
    """

    what: str
    numbers: int
    largest: float
    allowed: float
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the numbers are as near as they must be; NaN is not."""
        return self.largest <= self.allowed


def largest_difference(
    what: str, pairs: Sequence[tuple[Tensor | NDArray[Any], NDArray[Any]]], allowed: float, unit: str = ""
) -> Difference:
    """The largest difference of ours and theirs over several arrays of one kind; infinite where shapes differ."""
    largest, numbers = 0.0, 0
    for ours, theirs in pairs:
        found = np.asarray(ours, dtype=np.float64)
        numbers += theirs.size
        distance = np.abs(found - theirs).max(initial=0) if found.shape == theirs.shape else np.inf
        largest = float(np.maximum(largest, distance))  # keeps NaN
    return Difference(what, numbers, largest, allowed, unit)


def unequal(what: str, pairs: Sequence[tuple[Tensor | NDArray[Any], NDArray[Any]]], allowed: int = 0) -> Difference:
    """How many of the numbers of several arrays differ."""
    differ = sum(
        int((np.asarray(ours) != theirs).sum()) if tuple(ours.shape) == theirs.shape else theirs.size
        for ours, theirs in pairs
    )
    return Difference(what, sum(theirs.size for _, theirs in pairs), differ, allowed, "of them")


# --- files ------------------------------------------------------------------------------------------------------------
class Golden(dict[str, NDArray[Any]]):
    """The arrays of a golden file.

    Args:
        path: Of an .npz file.

    Raises:
        UnreadableFile: It is damaged; or, later, an array is asked for that it does not have.
        FileNotFoundError: It is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as data:
                super().__init__({key: data[key] for key in data.files})
        except FileNotFoundError:
            raise
        except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise UnreadableFile(f"{path}: not a readable .npz file ({error}); download it again") from error

    def __missing__(self, key: str) -> NDArray[Any]:
        """Name the file that lacks an array."""
        raise UnreadableFile(f"{self.path}: has no array {key!r}; it is of another version, download it again")


# --- the rule ---------------------------------------------------------------------------------------------------------
def draw(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def draw_for(key: str, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers that depend on the key alone."""
    return draw(zlib.crc32(key.encode()), shape)


def scale(key: str, x: Tensor) -> Tensor:
    """Drawn numbers as a weight, a layer scale, a norm or a bias, by shape and name."""
    if x.ndim >= 2:
        return x / np.sqrt(np.prod(x.shape[1:]))
    if key.endswith("gamma"):
        return 0.1 + 0.02 * x
    if key.endswith("weight"):
        return 1 + 0.1 * x
    return 0.02 * x


def fill(module: M, prefix: str = "", shapes: Mapping[str, Sequence[int]] | None = None) -> M:
    """Give a module the weights that the rule draws for its keys, behind `prefix`; `shapes` overrides shapes."""
    state = {}
    for key, tensor in module.state_dict().items():
        shape = (shapes or {}).get(key, tuple(tensor.shape))
        state[key] = scale(key, draw_for(prefix + key, shape)).reshape(tensor.shape)
    module.load_state_dict(state)
    return module.eval()


def picture(height: int = 200, width: int = 256) -> Tensor:
    """The picture of waves that the official Mask R-CNN was shown, uint8 [3, H, W]."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = np.stack([np.sin(x / 17 + y / 29), np.sin(x / 41 - y / 13 + 1), np.cos(x * y / 997 + 2)])
    return torch.from_numpy(np.rint(127.5 * (1 + waves)).astype(np.uint8))
