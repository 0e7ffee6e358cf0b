"""How features lie on the disk: what every format offers to the writer, and the formats with a file for each picture.

OUT/features/STEM.safetensors         the layers by their names; the rule as JSON in the metadata `pe_spatial`
OUT/features/STEM.npy, STEM.json      the layers stacked [L, ...]; the rule beside it
OUT/features/STEM/000012.*            frame 12 of a video
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.common.files import write_atomically, write_json
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.features.plan import Bundle

FOLDER = "features"
METADATA = "pe_spatial"  # key of the rule in a safetensors file


class Store(ABC):
    """Keeps features; `put` is called from several threads.

    Args:
        output: The output folder.
        names: Of what a picture gives, as `FeatureExtractor.names`.
        description: What the features depend on; it stands in every file.

    Attributes:
        places: The files and folders in the output folder that it alone writes to.
        kinds: What a picture leaves: keys of what `put` returns.
    """

    places: tuple[str, ...] = (FOLDER,)
    kinds: tuple[str, ...] = ("features",)

    def __init__(self, output: Path, names: Sequence[str], description: Mapping[str, Any]) -> None:
        self.output = output
        self.names = tuple(names)
        self.description = dict(description)

    @abstractmethod
    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """Keep the features of a picture, or of a frame.

        Args:
            name: Of the file, relative to the input.
            stem: Of the file to write; of a frame with its number.
            features: Tensors on the CPU by the names of layers.
            facts: What the picture's entry says.
            frame: Number of the frame of a video.

        Returns:
            Paths relative to the output folder, by `kinds`, and what else the list shall say.
        """

    # one that keeps several pictures in a file has to know where these begin and end
    def begin(self, bundles: Iterable[Bundle]) -> None:  # noqa: B027
        """Learn which bundles will come."""

    def skip(self, name: str) -> None:  # noqa: B027
        """Learn that a picture failed; nothing of it will come."""

    def finish(self, bundle: Bundle) -> None:  # noqa: B027
        """Put in place what belongs to a bundle of pictures, all of which came or failed."""

    def finish_video(self, name: str, stem: str, times: Sequence[float | None]) -> None:  # noqa: B027
        """Put in place what belongs to a video.

        Args:
            name: Of the file.
            stem: Of the files to write, without the number of a frame.
            times: Of all of its frames, in seconds.
        """

    def discard_video(self, name: str, stem: str) -> None:  # noqa: B027
        """Remove what there is of a video that failed; arguments as of `finish_video`."""

    def close(self) -> None:  # noqa: B027
        """Let go of what is not finished."""


class SafetensorsStore(Store):
    """A safetensors file for each picture."""

    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """See `Store`."""
        path = f"{FOLDER}/{stem}.safetensors"
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        metadata = {METADATA: json.dumps({**self.description, **facts})}
        write_tensor_file(features, self.output / path, metadata=metadata)
        return {"features": path}


class NpyStore(Store):
    """A file of NumPy for each picture, and one of JSON that says what it holds."""

    kinds = ("features", "rule")

    def put(
        self, name: str, stem: str, features: Mapping[str, Tensor], facts: dict[str, Any], frame: int | None
    ) -> dict[str, str]:
        """See `Store`."""
        path, rule = f"{FOLDER}/{stem}.npy", f"{FOLDER}/{stem}.json"
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        stacked = np.stack([array_of(features[name]) for name in self.names])
        content = npy_of(stacked)  # NumPy itself does not say of a write that fails that the disk is full
        write_atomically(self.output / path, lambda file: file.write(content))
        write_json(self.output / rule, {**self.description, **facts})
        return {"features": path, "rule": rule}


def array_of(values: Tensor) -> np.ndarray[Any, Any]:
    """A tensor on the CPU as an array."""
    return values.contiguous().numpy()


def npy_of(values: np.ndarray[Any, Any]) -> bytes:
    """The content of a .npy file."""
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def require_numpy_type(kind: str, dtype: torch.dtype) -> None:
    """Refuse bfloat16 in formats whose types are NumPy's.

    Raises:
        OptionError: It is.
    """
    if dtype == torch.bfloat16:
        raise OptionError(
            f"dtype bf16 is not a type of NumPy, so format {kind} cannot store it; use safetensors, or fp16"
        )
