"""The pictures that a predictor takes: files, addresses, and images in memory, alone or many."""

import time
from collections.abc import Iterable, Iterator, Mapping, Set
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, Literal, cast
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from pe_spatial.common.errors import PictureError, UnreadableFile, UserError
from pe_spatial.common.pictures import ValueRule, read_image, to_image

Picture = str | Path | bytes | IO[bytes] | Image.Image | NDArray[Any] | Tensor
Channels = Literal["rgb", "bgr"]

LARGEST_DOWNLOAD = 64 * 2**20  # bytes
DOWNLOAD_SECONDS = 30.0

_CHUNK = 2**16


def read_picture(
    picture: Picture,
    channels: Channels = "rgb",
    allow_urls: bool = False,
    apply_exif: bool = True,
    max_pixels: int | None = None,
    rule: ValueRule = ValueRule(),  # noqa: B008 - it cannot be changed
) -> tv_tensors.Image:
    """One picture as uint8 RGB [3, H, W].

    Args:
        picture: A path, an address, the bytes of a file, a binary file object, or what `to_image` takes.
        channels: The order of colors in arrays and tensors; OpenCV's is "bgr".
        allow_urls: Whether addresses (http, https) are fetched.
        apply_exif: Turn images of files as their EXIF orientation says.
        max_pixels: Larger images of files are refused; None: those that the memory does not hold.
        rule: How files of more than 8 bits and more than three bands are shown.

    Raises:
        UnreadableFile: A file or an address without a complete image.
        PictureError: Something that is no picture.
        UserError: An address where none is allowed.
    """
    if isinstance(picture, str) and picture.lower().startswith(("http://", "https://")):
        if not allow_urls:
            raise UserError(f"{picture} is an address, and addresses are read only with allow_urls=True")
        content = download(picture)
        try:
            return read_image(content, apply_exif, max_pixels=max_pixels, rule=rule)
        except UnreadableFile as error:
            raise UnreadableFile(f"{picture}: {error}") from error
    if isinstance(picture, str | Path | bytes) or hasattr(picture, "read"):
        file = cast("str | Path | bytes | IO[bytes]", picture)
        return read_image(file, apply_exif, max_pixels=max_pixels, rule=rule)
    return to_image(picture, channels)


def list_pictures(pictures: Picture | Iterable[Picture]) -> tuple[Iterator[Picture], bool]:
    """One picture or many, as many; and whether they were many.

    Args:
        pictures: A picture, or a list, a generator, an array [B, H, W, 3] or a tensor [B, 3, H, W].

    Raises:
        PictureError: A mapping or a set, whose order says nothing about the predictions.
    """
    if isinstance(pictures, Mapping | Set):
        raise PictureError(f"{type(pictures).__name__} is not an image, nor a list of images; pass list(...) of it")
    if isinstance(pictures, np.ndarray | Tensor):
        is_many = pictures.ndim == 4
    else:
        is_one = isinstance(pictures, str | Path | bytes | Image.Image) or hasattr(pictures, "read")
        is_many = not is_one and isinstance(pictures, Iterable)
    return iter(cast("Iterable[Picture]", pictures if is_many else [pictures])), is_many


def download(url: str) -> bytes:
    """The content at an address.

    Raises:
        UnreadableFile: No answer, an error, more than 64 MiB, or more than 30 seconds.
    """
    end = time.monotonic() + DOWNLOAD_SECONDS
    content = bytearray()
    try:
        with urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
            if not isinstance(response, HTTPResponse):
                raise UnreadableFile(f"it redirects to {response.url}; only http and https are allowed")
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > LARGEST_DOWNLOAD:
                    raise UnreadableFile(f"more than {LARGEST_DOWNLOAD // 2**20} MiB; download it and pass its path")
                if time.monotonic() > end:
                    raise UnreadableFile(f"not complete after {DOWNLOAD_SECONDS:g} s; download it and pass its path")
            if response.length:
                raise UnreadableFile(f"the download ended {response.length} bytes early; try again")
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        raise UnreadableFile(f"{url} cannot be downloaded: {error}") from error
    return bytes(content)
