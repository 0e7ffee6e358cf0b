"""Bands as they are stored: files of more than 8 bits or four bands, of which Pillow would show a part."""

import math
import zlib
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pe_spatial.common.errors import MissingPackage, PictureError
from pe_spatial.common.memory import available_memory, check_pixels
from pe_spatial.common.pictures.layout import Layout, tiff_orientation

_DEFLATE = (8, 32946)
_COMPRESSIONS = (1, 5, 7, 32773, *_DEFLATE)  # none, LZW, JPEG and PackBits
_MOST_BY_DEFLATE = 1032  # bytes that one byte can become


def shows_all(image: Image.Image, layout: Layout) -> bool:
    """Whether Pillow gives all of a file: 8 bits or less, and no bands that it leaves out."""
    return layout.bits <= 8 and (layout.bands <= len(image.getbands()) or len(image.getbands()) >= 3)


def read_bands(file: IO[bytes], image: Image.Image | None, layout: Layout, max_pixels: int | None) -> NDArray[Any]:
    """The values [H, W, N] of all bands of a file, in the file's order; not yet turned as EXIF says.

    Args:
        file: At its beginning; read only where Pillow does not give all.
        image: As Pillow has opened it; None where it cannot.
        layout: Of the file.
        max_pixels: As `check_pixels` takes it.

    Raises:
        PictureError: It is larger than the memory holds.
        MissingPackage: A TIFF is compressed in a way that a package is needed for.
    """
    if image is not None and (shows_all(image, layout) or layout.bands == 1):
        if image.mode == "P":
            image = image.convert("RGB")
        values = np.array(image)
        if layout.numbers == "unsigned" and values.dtype == np.int32:
            values = values.view(np.uint32)  # Pillow's 32 bits are signed
        return values if values.ndim == 3 else values[..., None]
    check_pixels(layout.size[0], layout.size[1] * max(layout.bands * layout.bits // 32, 1), max_pixels)
    if layout.format == "TIFF":
        return _read_tiff(file, layout)
    if layout.format == "PNG":
        return _with_opencv(file, layout)
    return np.array(image)  # formats of which Pillow alone knows the bands; it has brought them to 8 bits


def _with_opencv(file: IO[bytes], layout: Layout) -> NDArray[Any]:
    import cv2

    content = np.frombuffer(file.read(), np.uint8)
    values = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)  # B, G, R and alpha
    if values is None or values.shape[:2] != layout.size or values.ndim != 3:
        raise PictureError(f"it is {layout}, and damaged")
    if layout.bands == 2:  # gray and alpha come as colors
        return values[..., [0, 3]]
    return values[..., [2, 1, 0, 3][: layout.bands]]


def _read_tiff(file: IO[bytes], layout: Layout) -> NDArray[Any]:
    from tifffile import TiffFile  # Pillow and OpenCV give one band of several, or mix them, without a word

    with TiffFile(file, name="the picture") as tiff:
        page: Any = tiff.pages[0]
        if int(page.photometric) not in (0, 1, 2):
            raise PictureError(
                f"a TIFF of {page.photometric.name} colors with more than 8 bits is not supported; convert it to RGB"
            )
        _require_bounded(file, page)
        try:
            values = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if int(page.planarconfig or 1) == 1 and int(page.photometric) == 2 and tiff_orientation(page) == 1:
                file.seek(0)
                return _with_opencv(file, layout)  # of TIFFs it reads these right, and LZW without a package
            raise MissingPackage(
                f"a TIFF of several bands compressed with {page.compression.name} needs the package imagecodecs; pip "
                "install 'pe_spatial[tiff]', or compress it with DEFLATE"
            ) from None
        if page.planarconfig is not None and int(page.planarconfig) == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, -1)
        if values.ndim == 2:
            values = values[..., None]
        if values.ndim != 3:
            raise PictureError(f"a TIFF of the shape {values.shape} is not a picture")
        return turned(values, tiff_orientation(page))


def _require_bounded(file: IO[bytes], page: Any) -> None:
    """Refuse parts of a TIFF that decompress to more than their pixels need: the decoder takes whatever comes.

    Raises:
        PictureError: One does, or is compressed in a way whose size nobody knows before.
    """
    if int(page.compression) not in _COMPRESSIONS:
        raise PictureError(f"a TIFF compressed with {page.compression.name} is not supported; compress it with DEFLATE")
    needed = math.prod(page.chunks) * page.dtype.itemsize
    check_pixels(math.prod(page.chunks), 1)
    free = available_memory()
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=False):
        if int(page.compression) in _DEFLATE and size * _MOST_BY_DEFLATE > free:
            file.seek(offset)
            if len(zlib.decompressobj().decompress(file.read(size), needed + 1)) > needed:
                raise PictureError(f"a part of the TIFF decompresses to more than the {needed:,} bytes of its pixels")


def turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Values [H, W, N] turned and mirrored as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
