"""From a picture to the input of a graph, without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pe_spatial.common.errors import CheckpointError, PictureError
from pe_spatial.common.picture_files import head_of, naming_file, opened
from pe_spatial.common.sizes import fitted_size, patched_size

Picture = str | Path | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]

# steps of a pipeline that do nothing to the pixels of a prediction
_RESIZES = ("KeepRatioResize", "Sizing")
_OTHERS = ("LoadImage", "PackSample")


@dataclass(frozen=True)
class Input:
    """A prepared picture.

    Args:
        images: float32 [1, 3, H, W], normalized and padded.
        image_size: (H, W) without the padding.
        original_size: (H, W) of the picture.
    """

    images: NDArray[np.float32]
    image_size: tuple[int, int]
    original_size: tuple[int, int]


class Preparation:
    """Prepares pictures as the pipeline of a model does.

    Args:
        settings: `preprocessing` of a header.
        multiple: Sides of inputs are multiples of it.
        path: Of the file, for messages.

    Raises:
        CheckpointError: Steps that only torch knows.
    """

    def __init__(self, settings: Mapping[str, Any], multiple: int, path: Path) -> None:
        steps = [(step["type"].rpartition(".")[2], step) for step in settings["steps"]]
        unknown = [name for name, _ in steps if name not in (*_OTHERS, *_RESIZES)]
        if unknown:
            raise CheckpointError(
                f"{path}: its pictures go through {unknown[0]}, which needs torch: use pe_spatial.Predictor, or "
                "prepare the inputs yourself and call Runtime.run"
            )
        self._resizes = [step for name, step in steps if name in _RESIZES]
        self._mean, self._std = (np.array(settings[key], np.float32)[:, None, None] for key in ("mean", "std"))
        self._divisor = max(int(settings["size_divisor"]), 1)
        self._multiple = multiple
        self._pad_to = settings["pad_to"]

    def __call__(self, picture: Picture) -> Input:
        """Prepare one picture.

        Raises:
            UnreadableFile: A file or bytes without a complete picture.
            PictureError: Something that is no picture, or larger than the file takes.
        """
        image = open_picture(picture)
        original = (image.height, image.width)
        size = original
        for step in self._resizes:
            size = self._resized(step, size)
            if size != (image.height, image.width):
                image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
        height, width = self._padded(size)
        images = np.zeros((1, 3, height, width), np.float32)
        images[0, :, : size[0], : size[1]] = (pixels - self._mean) / self._std
        return Input(images, size, original)

    def _resized(self, step: Mapping[str, Any], image: tuple[int, int]) -> tuple[int, int]:
        if step["type"] == "Sizing":
            return patched_size(image, step["image_size"], step["resize"], step["unit"])
        size, longest, limit = (step.get(name) for name in ("size", "max_size", "limit"))
        first = size if size is not None else longest
        assert first is not None, "the model's own pipeline has refused it"
        height, width = fitted_size(image, first, longest, step.get("rounding", "half_up"))
        return (height, width) if limit is None else (min(height, limit), min(width, limit))

    def _padded(self, size: Sequence[int]) -> tuple[int, int]:
        if self._pad_to is not None:
            if size[0] > self._pad_to[0] or size[1] > self._pad_to[1]:
                raise PictureError(f"an image of {tuple(size)} (H, W) does not fit into {tuple(self._pad_to)}")
            return int(self._pad_to[0]), int(self._pad_to[1])
        unit = int(np.lcm(self._divisor, self._multiple))
        return -(-size[0] // unit) * unit, -(-size[1] // unit) * unit


def open_picture(picture: Picture) -> Image.Image:
    """A picture in RGB, turned as its EXIF orientation says.

    Raises:
        UnreadableFile: A file or bytes without a complete picture.
        PictureError: An array of another form.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise PictureError(f"an array is {picture.dtype} {picture.shape}, but must be uint8 [H, W, 3]")
        return Image.fromarray(picture)
    if isinstance(picture, Image.Image):
        return ImageOps.exif_transpose(picture).convert("RGB")
    name = str(picture) if isinstance(picture, str | Path) else "the given bytes"
    with naming_file(name), opened(BytesIO(picture) if isinstance(picture, bytes) else picture) as file:
        image = head_of(file)
        if image is None or image.mode.startswith(("I", "F")):
            raise PictureError(
                "it has more than 8 bits, which only pe_spatial.Predictor can handle; use it, or convert the picture "
                "to 8 bits"
            )
        return ImageOps.exif_transpose(image).convert("RGB")
