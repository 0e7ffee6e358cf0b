"""What a picture file holds, from its head: bands, bits, kind of numbers, pages, and how EXIF turns it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from PIL import Image

from pe_spatial.common.errors import PictureError
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.picture_files import head_of, mend_byte_order, name_of, naming_file, opened, say_once

if TYPE_CHECKING:
    from tifffile import TiffPage

_ORIENTATION = 0x0112  # EXIF's tag; from 5 on, the stored picture lies on its side
_SUBFILE, _BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 254, 258, 262, 277, 338, 339  # TIFF's tags
_NO_PAGE = 1 | 4  # bits of _SUBFILE: a smaller copy of another page, a mask of one
Numbers = Literal["unsigned", "signed", "float"]

_NUMBERS: dict[int, Numbers] = {2: "signed", 3: "float"}  # by _FORMAT
_KINDS: dict[str, Numbers] = {"i": "signed", "f": "float"}  # by numpy's letter
_MODES = {"1": 1, "I": 32, "F": 32}  # bits, where it is not 8; and 16 where the name says so
_SEVERAL_VIEWS = "Multi-Frame"  # of an MPO: panorama, disparity, several angles


@dataclass(frozen=True)
class Layout:
    """What a file holds.

    Attributes:
        format: Such as "PNG".
        size: (H, W) as stored.
        bands: Also those of alpha.
        bits: Of a value.
        numbers: What the values are.
        has_colors: Whether the file says that its first three bands are red, green and blue.
        has_alpha: Whether it says that the last band is alpha.
        is_scaled: Whether the decoder brings the values to their whole range (PGM states its greatest value).
        pages: Pictures in the file.
        orientation: EXIF's, 1 where the file has none; of a TIFF 1, for it is turned by whoever reads it.
    """

    format: str
    size: tuple[int, int]
    bands: int
    bits: int
    numbers: Numbers = "unsigned"
    has_colors: bool = False
    has_alpha: bool = False
    is_scaled: bool = False
    pages: int = 1
    orientation: int = 1

    def __str__(self) -> str:
        """Such as "a TIFF of 4 bands, 16 bits each"."""
        kind = {"unsigned": "", "signed": ", signed", "float": ", floating-point"}[self.numbers]
        bands = f"{self.bands} bands" if self.bands > 1 else "one band"
        return f"a {self.format} of {bands}, {self.bits} bits{' each' if self.bands > 1 else ''}{kind}"


def picture_facts(
    source: str | Path | bytes, archive: tuple[str, int, int] | None = None, max_pixels: int | None = None
) -> Layout:
    """What a picture file holds; no pixel is decoded.

    Args:
        source: A file, or its content.
        archive: As `read_image` takes it.
        max_pixels: As `read_image` takes it.

    Raises:
        UnreadableFile: It is missing or no picture.
    """
    path, part = (source, None) if archive is None else (archive[0], archive[1:])
    with naming_file(name_of(source)), opened(path, part) as file:
        start = file.tell()
        image = head_of(file, max_pixels)
        if image is not None:
            return layout_of(image)
        file.seek(start)
        return layout_of_tiff(file, max_pixels)


def layout_of(image: Image.Image) -> Layout:
    """The layout of a picture that Pillow knows and that is not decoded yet."""
    if image.format == "TIFF":
        tags = cast(Any, image).tag_v2
        bits, extra = tags.get(_BITS, (1,)), tags.get(_EXTRA, ())
        return Layout(
            format="TIFF",
            size=image.size[::-1],
            bands=int(tags.get(_SAMPLES, 1)),
            bits=max(bits if isinstance(bits, tuple) else (bits,)),
            numbers=_NUMBERS.get(_first(tags.get(_FORMAT, 1)), "unsigned"),
            has_colors=tags.get(_PHOTOMETRIC) == 2,
            has_alpha=_first(extra) in (1, 2),
            pages=_count_pages(image) if _is_animated(image) else 1,
        )
    tiles: Any = getattr(image, "tile", None)
    tile = tiles[0].args if tiles else ()
    coding = tile[0] if isinstance(tile, tuple) and tile else tile
    is_deep = "16" in image.mode or (isinstance(coding, str) and ";16" in coding)
    names = image.getbands()
    return Layout(
        format=image.format or "picture",
        size=image.size[::-1],
        bands=2 if isinstance(coding, str) and coding.startswith("LA") else len(names),
        bits=16 if is_deep else _MODES.get(image.mode, 8),
        numbers="float" if image.mode == "F" else "unsigned",
        has_colors=names[:3] == ("R", "G", "B") and not (isinstance(coding, str) and coding.startswith("LA")),
        has_alpha=names[-1] in ("A", "a"),
        is_scaled=image.format == "PPM" and image.mode != "F",
        pages=_count_pages(image) if _is_animated(image) else 1,
        orientation=orientation_of(image),
    )


def orientation_of(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8, from the head of a file."""
    # Pillow turns a TIFF itself, and would decode a PNG to look for EXIF after its pixels
    if image.format == "TIFF" or image.format == "PNG" and "exif" not in image.info:
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(2, 9) else 1


def _first(value: object) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return values[0] if values and isinstance(values[0], int) else 0


def _is_animated(image: Image.Image) -> bool:
    return bool(getattr(image, "is_animated", False))


def _count_pages(image: Image.Image) -> int:
    """Pictures that a file shows; previews, overviews and masks of others are none."""
    total = int(getattr(image, "n_frames", 1))
    if image.format == "MPO":  # how phones store a portrait or a brightness map behind an ordinary JPEG
        entries = (getattr(image, "mpinfo", None) or {}).get(0xB002, [])
        return max(sum(str(entry["Attribute"]["MPType"]).startswith(_SEVERAL_VIEWS) for entry in entries), 1)
    if image.format != "TIFF":
        return total
    pages = 0
    for number in range(total):
        image.seek(number)
        pages += not int(cast(Any, image).tag_v2.get(_SUBFILE, 0)) & _NO_PAGE
    image.seek(0)
    mend_byte_order(image)
    return max(pages, 1)


def require_one_page(layout: Layout, name: str) -> None:
    """Refuse a file of several pictures, of which only one would be read.

    Raises:
        PictureError: It has several.
    """
    if layout.pages == 1:
        return
    if layout.format == "MPO":
        say_once(name, f"it holds {layout.pages} views of a scene, and the first is read")
        return
    raise PictureError(
        f"it contains {layout.pages} pictures (a {layout.format} of several pages, or an animation), and only one "
        "would be read; save each as its own file, or make a video"
    )


# --- TIFFs that Pillow does not know ----------------------------------------------------------------------------------
def layout_of_tiff(file: IO[bytes], max_pixels: int | None = None) -> Layout:
    """The layout of a TIFF, at its beginning.

    Raises:
        PictureError: It is larger than the memory holds, or no picture.
    """
    from tifffile import TiffFile  # only for what Pillow does not know

    with TiffFile(file, name="the picture") as tiff:
        listed = cast("Sequence[TiffPage]", tiff.pages)
        page = listed[0]
        pages = sum(not int(each.subfiletype) & _NO_PAGE for each in listed)
        if page.imagewidth < 1 or page.imagelength < 1 or page.dtype is None or page.dtype.kind not in "uifb":
            raise PictureError(f"a TIFF of {page.dtype} values is not supported; convert it to PNG")
        check_pixels(page.imagelength * page.imagedepth, page.imagewidth * page.samplesperpixel, max_pixels)
        return Layout(
            format="TIFF",
            size=_turned_size(page),
            bands=page.samplesperpixel,
            bits=page.dtype.itemsize * 8 if page.dtype.kind != "b" else 1,
            numbers=_KINDS.get(page.dtype.kind, "unsigned"),
            has_colors=int(page.photometric) == 2,
            has_alpha=bool(page.extrasamples) and int(page.extrasamples[0]) in (1, 2),
            pages=max(pages, 1),
        )


def tiff_orientation(page: "TiffPage") -> int:
    """How a page of a TIFF is turned, as EXIF counts."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _turned_size(page: "TiffPage") -> tuple[int, int]:
    size = (page.imagelength, page.imagewidth)
    return size[::-1] if tiff_orientation(page) >= 5 else size
