"""Writing picture files, whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pe_spatial.common.errors import PictureError
from pe_spatial.common.files import write_atomically
from pe_spatial.common.pictures.large_png import LARGE, write_large_png
from pe_spatial.common.suffixes import HEIF_SUFFIXES, IMAGE_SUFFIXES


def save_image(
    path: Path,
    picture: Image.Image | NDArray[Any] | Tensor,
    *,
    colors: Sequence[Sequence[int]] | NDArray[np.uint8] | None = None,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a picture whole or not at all, in the format of its suffix; makes the folder.

    Args:
        path: Of the file.
        picture: A PIL image, an array uint8 or uint16 [H, W] or uint8 [H, W, 3], or a uint8 tensor [3, H, W].
        colors: Palette (r, g, b) for indices uint8 [H, W].
        text: Entries that a PNG carries.

    Raises:
        PictureError: The suffix is that of no picture.
        OSError: The folder cannot be written, or the disk is full.
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    written = [suffix for suffix in IMAGE_SUFFIXES if suffix not in HEIF_SUFFIXES]
    if kind is None or path.suffix.lower() not in written:
        raise PictureError(f"{path} ends in {path.suffix!r}; the name of a picture ends in {', '.join(written)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).contiguous().cpu().numpy()
    palette = None if colors is None else np.asarray(colors, np.uint8)
    if kind == "PNG" and isinstance(picture, np.ndarray) and picture.size > LARGE:
        write_atomically(path, lambda file: write_large_png(file, picture, text or {}, palette))
        return
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if palette is not None:
        image.putpalette(palette.tobytes())
    entries = PngInfo()
    for key, value in (text or {}).items():
        entries.add_text(key, value)
    write_atomically(path, lambda file: image.save(file, format=kind, quality=90, pnginfo=entries))
