"""Opening picture files: only the head is read, sizes are checked, and whatever is wrong names the file."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image

from pe_spatial.common.errors import MissingPackage, PictureError, UnreadableFile, UserError
from pe_spatial.common.memory import available_memory, check_pixels
from pe_spatial.common.reading import open_regular

_PROGRAMS = ("EPS", "WMF")  # their decoders run other programs
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands, behind `ftyp`
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}  # Pillow's names of layouts, in its own order
_pillow_limit = threading.Lock()
_said: set[str] = set()


@contextmanager
def naming_file(path: str | Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into an UnreadableFile that names it."""
    try:
        yield
    except MissingPackage as error:
        raise error if str(path) in str(error) else MissingPackage(f"{path}: {error}") from error
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


def name_of(source: str | Path | bytes | IO[bytes]) -> str:
    """What messages call a file, its content, or an open file."""
    if isinstance(source, str | Path):
        return str(source)
    return "the given bytes" if isinstance(source, bytes) else str(getattr(source, "name", "the given file"))


@contextmanager
def opened(source: str | Path | bytes | IO[bytes], part: tuple[int, int] | None = None) -> Iterator[IO[bytes]]:
    """The bytes of a picture, at their beginning; closed at the end, unless an open file was given.

    Args:
        source: A file, its content, or an open file.
        part: (offset, bytes) of a picture that lies in a larger file.
    """
    if not isinstance(source, str | Path):
        yield BytesIO(source) if isinstance(source, bytes) else source
        return
    with open_regular(source) as file:
        offset, size = part or (0, os.fstat(file.fileno()).st_size)
        if offset < 0 or size < 0 or offset + size > os.fstat(file.fileno()).st_size:
            raise PictureError(f"the file ends before byte {offset + size}; it may have changed while it was read")
        if size > available_memory():  # some decoders take a whole file at once
            raise PictureError(f"{size:,} bytes do not fit into the free memory")
        file.seek(offset)
        yield file if part is None else BytesIO(file.read(size))


def head_of(file: IO[bytes], max_pixels: int | None = None) -> Image.Image | None:
    """A picture of which only the header is read, and whose size the memory holds; None for a TIFF unknown to Pillow.

    Args:
        file: At its beginning.
        max_pixels: As `check_pixels` takes it.

    Raises:
        PictureError: It is too large, or of a format that is not read.
        MissingPackage: Its format needs a package.
        PIL.UnidentifiedImageError: It is no picture.
    """
    start = file.tell()
    try:
        image = _identified(file)
    except Image.UnidentifiedImageError:
        file.seek(start)
        head = file.read(12)
        file.seek(start)
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
        if head[4:8] != b"ftyp" or head[8:] not in _HEIF:
            raise
        _learn_heif()
        image = _identified(file)
    check_pixels(image.height, image.width, max_pixels)
    if image.format in _PROGRAMS:
        raise PictureError(f"{image.format} is not a supported picture format; convert it to PNG")
    mend_byte_order(image)
    return image


def mend_byte_order(image: Image.Image) -> None:
    """Keep Pillow from swapping the bytes of compressed big-endian TIFFs twice: libtiff has done it already."""
    tiles: list[Any] = getattr(image, "tile", None) or []
    for number, tile in enumerate(tiles):
        codec, extents, offset, args = tile
        if codec == "libtiff" and args[0] in _NATIVE:
            mended = (codec, extents, offset, (_NATIVE[args[0]], *args[1:]))
            tiles[number] = type(tile)(*mended) if hasattr(tile, "_fields") else mended


def _identified(file: IO[bytes]) -> Image.Image:
    with _pillow_limit:  # Pillow's own limit knows nothing of the memory
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _learn_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise MissingPackage(
            "pictures in HEIC need the package pillow-heif; pip install 'pe_spatial[heic]', or convert them to JPEG"
        ) from None
    pillow_heif.register_heif_opener()


def say_once(name: str, text: str) -> None:
    """Warn about what was guessed for a file, once for all files of which the same is to be said."""
    if text not in _said:
        _said.add(text)
        warnings.warn(f"{name}: {text} (said once; there may be more such files)", stacklevel=2)
