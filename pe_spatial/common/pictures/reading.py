"""Photographs: every kind of file and of array in memory as RGB of 8 bits."""

from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors

from pe_spatial.common.errors import PictureError
from pe_spatial.common.picture_files import head_of, name_of, naming_file, opened
from pe_spatial.common.pictures.layout import Layout, layout_of, layout_of_tiff, picture_facts, require_one_page
from pe_spatial.common.pictures.rasters import read_bands, shows_all, turned
from pe_spatial.common.pictures.scaling import ValueRule

_STRIP = 2**16  # pixels


def read_image(
    source: str | Path | bytes | IO[bytes],
    apply_exif: bool = True,
    archive: tuple[str, int, int] | None = None,
    max_pixels: int | None = None,
    rule: ValueRule = ValueRule(),  # noqa: B008 - it cannot be changed
) -> tv_tensors.Image:
    """The image as uint8 RGB [3, H, W].

    Grayscale, palette and CMYK images are converted, and an alpha channel is dropped (the stored colors count, also
    where they are transparent). More than 8 bits and more than three bands are reduced as `rule` says.

    Args:
        source: A file, its content, or an open file; where `archive` is given, only the name of the image.
        apply_exif: Rotate the image according to its EXIF orientation.
        archive: (file, offset, bytes) of an image inside a larger file.
        max_pixels: Larger images are refused; None: those that do not fit into the memory (see `check_pixels`).
        rule: Which values are black and white, and which bands are the colors.

    Raises:
        UnreadableFile: The file is missing, damaged, too large or not an image; it contains several images; or it is
            not known how its values or bands become colors.
        MissingPackage: Its format needs a package that is not installed.
    """
    name = name_of(source)
    path, part = (source, None) if archive is None else (archive[0], archive[1:])
    with naming_file(name), opened(path, part) as file:
        start = file.tell()
        image = head_of(file, max_pixels)
        if image is not None:
            layout = layout_of(image)
            require_one_page(layout, name)
            if shows_all(image, layout) and rule.bands is None:
                if apply_exif:
                    ImageOps.exif_transpose(image, in_place=True)  # without it, even an upright image would be copied
                return to_image(image)
        file.seek(start)
        if image is None:
            layout = layout_of_tiff(file, max_pixels)
            require_one_page(layout, name)
            file.seek(start)
        values = _in_8_bits(read_bands(file, image, layout, max_pixels), layout, rule, name)
        return to_image(turned(values, layout.orientation if apply_exif else 1))


def read_bands_of(path: str | Path) -> NDArray[Any]:
    """The values [H, W, N] of all bands of a file as stored, before any rule; errors as of `read_image`."""
    with naming_file(path), opened(path) as file:
        image = head_of(file)
        file.seek(0)
        layout = layout_of_tiff(file) if image is None else layout_of(image)
        file.seek(0)
        if image is not None:
            image = head_of(file)
            file.seek(0)
        return read_bands(file, image, layout, None)


def _in_8_bits(values: NDArray[Any], layout: Layout, rule: ValueRule, name: str) -> NDArray[np.uint8]:
    """Values [H, W, N] of a file as uint8 [H, W, 3] or [H, W, 1]."""
    return rule.to_8_bits(rule.select(values, layout, name), layout, name)


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
        return tv_tensors.Image(torch.from_numpy(pixels_of(_to_rgb(image))).permute(2, 0, 1))
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


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of a PIL image in RGB, as `np.array` gives them.

    It goes by strips that fit into a cache: `np.array` of 36 megapixels takes twice as long, and the memory.
    """
    width, height = image.size
    rows = max(_STRIP // max(width, 1), 1)
    if rows >= height:
        return np.array(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        values = _in_8_bits(np.asarray(image)[..., None], layout_of(image), ValueRule(), "the given picture")
        return Image.fromarray(values[..., 0]).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def image_size(
    source: str | Path | bytes, archive: tuple[str, int, int] | None = None, max_pixels: int | None = None
) -> tuple[int, int]:
    """(H, W) that `read_image` gives a file, from the head of the file: no pixel is decoded.

    Args:
        source: A file, or its content.
        archive: As `read_image` takes it.
        max_pixels: As `read_image` takes it.

    Raises:
        UnreadableFile: The file is missing or no image.
    """
    layout = picture_facts(source, archive, max_pixels)
    return layout.size[::-1] if layout.orientation >= 5 else layout.size
