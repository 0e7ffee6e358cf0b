"""Files of numbers: label maps and measurements, exactly as stored."""

from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.picture_files import head_of, naming_file, opened
from pe_spatial.common.pictures.layout import layout_of, layout_of_tiff, require_one_page
from pe_spatial.common.pictures.rasters import read_bands

_INDEX_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSY = ("JPEG", "MPO")


class IndexModeError(UnreadableFile, ValueError):
    """A file of colors where indices are expected, or of 8 bits where 16 are."""


def read_indices(path: str | Path | Image.Image, colors: bool = False, palette: bool = False) -> NDArray[Any]:
    """The values of a label file as int64 [H, W]; of a palette PNG, its indices.

    Args:
        path: Of the file; or the picture itself.
        colors: Take files of colors too, as uint8 RGB [H, W, 3].
        palette: Take a file with a palette as the colors of its palette.

    Raises:
        UnreadableFile: The file is missing, damaged, no image, or holds several.
        IndexModeError: It holds colors (unless taken), several bands, or values of another kind; or it is a JPEG, which
            changes values.
    """
    if isinstance(path, Image.Image):
        with naming_file("the given picture"):
            return _indices_of(path, "the given picture", colors, palette)
    with naming_file(path), opened(path) as file:
        image = head_of(file)
        if image is None:
            return _integers_of_tiff(file, path)
        layout = layout_of(image)
        require_one_page(layout, str(path))
        if image.format in _LOSSY:
            raise _refusal(path, f"it is a {image.format}, whose compression changes the values of pixels")
        if layout.bands > len(image.getbands()) and len(image.getbands()) < 3:
            raise _refusal(path, f"it is {layout}, not indices")
        values = _indices_of(image, path, colors, palette)
        return values & 0xFFFFFFFF if image.mode == "I" and layout.numbers == "unsigned" else values  # Pillow has signs


def _indices_of(image: Image.Image, path: str | Path, colors: bool, palette: bool) -> NDArray[Any]:
    if palette and image.mode == "P" or colors and image.mode in ("RGB", "RGBA"):
        return np.array(image.convert("RGB"))
    if image.mode in _INDEX_MODES:
        return np.array(image).astype(np.int64)
    wrong = "is neither indices nor colors" if colors else "holds colors, not indices"
    raise _refusal(path, f"mode {image.mode} {wrong}")


def _integers_of_tiff(file: IO[bytes], path: str | Path) -> NDArray[Any]:
    """The values of a TIFF that Pillow does not know, such as one of 32 bits without sign, or of 64."""
    file.seek(0)
    layout = layout_of_tiff(file)
    require_one_page(layout, str(path))
    if layout.bands != 1 or layout.numbers == "float":
        raise _refusal(path, f"it is {layout}, not indices")
    file.seek(0)
    return read_bands(file, None, layout, None)[..., 0].astype(np.int64)


def _refusal(path: str | Path, reason: str) -> IndexModeError:
    return IndexModeError(
        f"{path} cannot be read: {reason}; save a grayscale or palette PNG in which every pixel has the number of its "
        "class or object"
    )


def read_values(path: str | Path) -> NDArray[Any]:
    """The measurements [H, W] of a file of one band: integers of 16 or 32 bits, or floating-point numbers.

    Raises:
        UnreadableFile: The file is missing, damaged, no image, or holds several.
        IndexModeError: It has 8 bits per value, or several bands.
    """
    with naming_file(path), opened(path) as file:
        image = head_of(file)
        file.seek(0)
        layout = layout_of_tiff(file) if image is None else layout_of(image)
        require_one_page(layout, str(path))
        if layout.bits <= 8 or layout.bands != 1:
            kind = f"mode {image.mode}" if image is not None else "TIFF"
            reason = "has 8 bits per value, too few for depth" if layout.bits <= 8 else "has several bands"
            raise IndexModeError(f"{path} cannot be read: {kind} {reason} ({layout}); save 16-bit grayscale")
        file.seek(0)
        if image is not None:
            image = head_of(file)
        return read_bands(file, image, layout, None)[..., 0]
