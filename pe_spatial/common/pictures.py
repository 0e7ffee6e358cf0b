"""Picture files: the one place that decodes and encodes them."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import PictureError, UnreadableFile, UserError
from pe_spatial.common.files import write_atomically
from pe_spatial.common.memory import available_memory, check_pixels
from pe_spatial.common.reading import open_regular
from pe_spatial.common.suffixes import IMAGE_SUFFIXES

_ORIENTATION = 0x0112  # EXIF's tag; from 5 on, the stored picture lies on its side
_INDEX_MODES = ("P", "L", "1", "I", "I;16")
_PROGRAMS = ("EPS", "WMF")  # their decoders run other programs
_pillow_limit = threading.Lock()


class IndexModeError(UnreadableFile, ValueError):
    """A file of colors where indices are expected, or of 8 bits where 16 are."""


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into an UnreadableFile that names it."""
    try:
        yield
    except (UnreadableFile, ImportError, MemoryError):
        raise
    # Pillow's decoders raise OSError, SyntaxError (broken PNG), ValueError and EOFError
    except Exception as error:
        raise UnreadableFile(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):  # names the file again, or an object in memory
        return "it is empty or no picture"
    if isinstance(error, OSError) and error.strerror:
        return "no such file" if isinstance(error, FileNotFoundError) else error.strerror
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


@contextmanager
def _opened(
    source: str | Path | IO[bytes], max_pixels: int | None = None, part: tuple[int, int] | None = None
) -> Iterator[Image.Image]:
    """A picture of which only the header is read, and whose size the memory holds; its file is closed at the end.

    Args:
        source: A file, or an open one.
        max_pixels: As `check_pixels` takes it.
        part: (offset, bytes) of a picture that lies in a larger file.
    """
    if not isinstance(source, str | Path):
        with _header(source, max_pixels) as image:
            yield image
        return
    with open_regular(source) as file:
        offset, size = part or (0, os.fstat(file.fileno()).st_size)
        if offset < 0 or size < 0 or offset + size > os.fstat(file.fileno()).st_size:
            raise PictureError(f"the file ends before byte {offset + size}; has it changed?")
        if size > available_memory():  # some decoders take a whole file at once
            raise PictureError(f"{size:,} bytes are more than the free memory holds")
        file.seek(offset)
        with _header(file if part is None else BytesIO(file.read(size)), max_pixels) as image:
            yield image


def _header(file: IO[bytes], max_pixels: int | None) -> Image.Image:
    with _pillow_limit:  # Pillow's own limit knows nothing of the memory
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    check_pixels(image.height, image.width, max_pixels)
    if image.format in _PROGRAMS:
        raise PictureError(f"{image.format} is no format of pictures that is read; convert it to PNG")
    return image


# --- photographs ------------------------------------------------------------------------------------------------------
def read_image(
    source: str | Path | bytes | IO[bytes],
    apply_exif: bool = True,
    archive: tuple[str, int, int] | None = None,
    max_pixels: int | None = None,
) -> tv_tensors.Image:
    """The image as uint8 RGB [3, H, W].

    Grayscale, palette and CMYK images are converted, 16-bit grayscale is reduced to its upper 8 bits, and an alpha
    channel is dropped (the stored colors count, also where they are transparent).

    Args:
        source: A file, its content, or an open file; where `archive` is given, only the name of the image.
        apply_exif: Turn the image as its EXIF orientation says.
        archive: (file, offset, bytes) of an image that lies in a larger file.
        max_pixels: Larger images are refused; None: those that the memory does not hold (see `check_pixels`).

    Raises:
        UnreadableFile: The file is missing, damaged, too large or no image.
    """
    if isinstance(source, str | Path):
        name = str(source)
    else:
        name = "the given bytes" if isinstance(source, bytes) else str(getattr(source, "name", "the given file"))
    path, part = (source, None) if archive is None else (archive[0], archive[1:])
    content = BytesIO(path) if isinstance(path, bytes) else path
    with naming_file(name), _opened(content, max_pixels, part) as image:
        if apply_exif:
            ImageOps.exif_transpose(image, in_place=True)  # without it, even an upright image would be copied
        return to_image(image)


def to_image(
    image: Image.Image | NDArray[np.uint8] | Tensor, channels: Literal["rgb", "bgr"] = "rgb"
) -> tv_tensors.Image:
    """A picture held in memory as uint8 RGB [3, H, W].

    Args:
        image: A PIL image, or uint8: an array [H, W], [H, W, 3] or [H, W, 4], or a tensor [1, H, W], [3, H, W] or
            [4, H, W]. A fourth channel is alpha, and dropped.
        channels: The order of the first three in arrays and tensors; OpenCV's is "bgr".

    Raises:
        PictureError: Another shape, type or order.
    """
    if channels not in ("rgb", "bgr"):
        raise PictureError(f"channels {channels!r} is neither 'rgb' nor 'bgr'; OpenCV's arrays are 'bgr'")
    if isinstance(image, Image.Image):
        return tv_tensors.Image(F.pil_to_tensor(_to_rgb(image)))
    pixels: Any = image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        pixels = torch.from_numpy(np.array(image if image.ndim == 3 else image[..., None])).permute(2, 0, 1)
    known = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3
    if not known or len(pixels) not in (1, 3, 4) or 0 in pixels.shape:
        described = f"{type(image).__name__} {getattr(image, 'dtype', '')} {list(getattr(image, 'shape', ()))}"
        raise PictureError(
            f"{described} is not an image; pass a PIL image, a uint8 array [H, W], [H, W, 3] or [H, W, 4], or a uint8 "
            "tensor [1, H, W] or [3, H, W]"
        )
    pixels = pixels.repeat(3, 1, 1) if len(pixels) == 1 else pixels[:3]
    return tv_tensors.Image(pixels.flip(0) if channels == "bgr" else pixels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise PictureError("floating-point images have no fixed range; convert the file to 8 bits per channel")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise PictureError(
                f"32-bit values {values.min()}…{values.max()} exceed 16 bits; convert the file to 8 bits"
            )
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) that `read_image` gives a file, from the head of the file: no pixel is decoded.

    Raises:
        UnreadableFile: The file is missing or no image.
    """
    with naming_file(path), _opened(path) as image:
        # Pillow turns the size of a TIFF itself, and would decode a PNG to look for EXIF after its pixels
        has_exif = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        is_turned = has_exif and image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        return image.size if is_turned else image.size[::-1]


# --- indices and depth ------------------------------------------------------------------------------------------------
def read_indices(path: str | Path | Image.Image, colors: bool = False) -> NDArray[Any]:
    """The values of a label file as int64 [H, W]; of a palette PNG, its indices.

    Args:
        path: Of the file; or the picture itself.
        colors: Take files of colors too, as uint8 RGB [H, W, 3].

    Raises:
        UnreadableFile: The file is missing, damaged or no image.
        IndexModeError: It holds colors (unless taken), or values of another kind.
    """
    given = path if isinstance(path, Image.Image) else None
    with naming_file("the given picture" if given else str(path)), given or _opened(str(path)) as image:
        if image.mode in _INDEX_MODES:
            return np.array(image).astype(np.int64)
        if colors and image.mode in ("RGB", "RGBA"):
            return np.array(image.convert("RGB"))
        wrong = "is neither indices nor colors" if colors else "holds colors, not indices"
        raise IndexModeError(
            f"{path} cannot be read: mode {image.mode} {wrong}; save a grayscale or palette PNG in which every pixel "
            "has the number of its class or object"
        )


def read_16_bits(path: str | Path) -> NDArray[Any]:
    """The values [H, W] of a 16-bit grayscale file, such as depth in millimeters.

    Raises:
        UnreadableFile: The file is missing, damaged or no image.
        IndexModeError: It has 8 bits per value.
    """
    with naming_file(path), _opened(path) as image:
        if image.mode.startswith("I"):
            return np.array(image)
        raise IndexModeError(
            f"{path} cannot be read: mode {image.mode} has 8 bits per value, too few for depth; save 16-bit grayscale"
        )


# --- writing ----------------------------------------------------------------------------------------------------------
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
    if kind is None or path.suffix.lower() not in IMAGE_SUFFIXES:
        raise PictureError(f"{path} ends in {path.suffix!r}; the name of a picture ends in {', '.join(IMAGE_SUFFIXES)}")
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).contiguous().cpu().numpy()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if colors is not None:
        image.putpalette(np.asarray(colors, np.uint8).tobytes())
    entries = PngInfo()
    for key, value in (text or {}).items():
        entries.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: image.save(file, format=kind, quality=90, pnginfo=entries))
