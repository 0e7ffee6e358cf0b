"""Which requests are let in: as many as the memory is meant for, each of a bounded size."""

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException, Request
from PIL import UnidentifiedImageError

from pe_spatial.common.errors import MissingPackage, UserError
from pe_spatial.common.memory import check_pixels
from pe_spatial.common.pictures import image_size

_ANY_SIZE = 2**62  # the head alone is read, so that the limit of the service can be named
_PICTURES = ("image/", "application/octet-stream")


class Admission:
    """Counts the requests inside and the pixels of their pictures; lives in the event loop alone.

    Args:
        places: Requests inside at a time.
        pixels: Of all pictures inside; a single picture may always enter.
    """

    def __init__(self, places: int, pixels: int) -> None:
        self._most_places, self._most_pixels = places, pixels
        self.requests = self.pixels = 0

    @property
    def is_full(self) -> bool:
        """Whether the next request is refused."""
        return self.requests >= self._most_places

    @contextmanager
    def place(self, retry_after: float) -> Iterator[None]:
        """A place for the block.

        Args:
            retry_after: Seconds after which a refused client may try again.

        Raises:
            HTTPException: 503, all places are taken.
        """
        if self.is_full:
            raise busy(f"{self.requests} requests are waiting already; try again later", retry_after)
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def room(self, pixels: int, retry_after: float) -> Iterator[None]:
        """Room for a picture in the block; raises as `place` does."""
        if self.pixels and self.pixels + pixels > self._most_pixels:
            raise busy(f"pictures of {self.pixels:,} pixels are waiting already; try again later", retry_after)
        self.pixels += pixels
        try:
            yield
        finally:
            self.pixels -= pixels


def busy(reason: str, retry_after: float) -> HTTPException:
    """503 with the whole seconds after which to try again."""
    return HTTPException(503, reason, headers={"Retry-After": str(max(math.ceil(retry_after), 1))})


def check_head(request: Request, max_upload: float) -> None:
    """Refuse by the headers alone what could not be taken.

    Raises:
        HTTPException: 415, it is no picture; 413, it has too many bytes.
    """
    kind = request.headers.get("content-type", "image/").partition(";")[0].strip().lower()
    if not kind.startswith(_PICTURES):
        raise HTTPException(415, f"the body is {kind!r}; send the bytes of one picture, with Content-Type image/jpeg")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_upload:
        raise _too_long(int(stated), max_upload)


async def read_body(request: Request, max_upload: float, seconds: float) -> bytes:
    """The bytes of a request.

    Raises:
        HTTPException: 400, there are none; 413, there are too many; 408, they did not arrive in so many seconds.
        ClientDisconnect: The client has left.
    """

    async def read() -> bytes:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > max_upload:
                raise _too_long(len(content), max_upload)
        return bytes(content)

    try:
        content = await asyncio.wait_for(read(), seconds)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the picture did not arrive in {seconds:g} s; send it again") from None
    if not content:
        raise HTTPException(400, "the body is empty; send the bytes of one picture")
    return content


def measure(content: bytes, max_pixels: int) -> int:
    """The pixels of a picture, from its head.

    Raises:
        HTTPException: 413, there are too many; or as of `refusal`.
    """
    try:
        height, width = image_size(content, max_pixels=_ANY_SIZE)
    except UserError as error:
        raise refusal(error) from error
    try:
        check_pixels(height, width, max_pixels)
    except UserError as error:
        raise HTTPException(413, str(error)) from error
    return height * width


def refusal(error: UserError) -> HTTPException:
    """What is answered to a picture that cannot be predicted: 415, it is none that is read; 422, it is damaged."""
    is_foreign = isinstance(error, MissingPackage) or isinstance(error.__cause__, UnidentifiedImageError)
    return HTTPException(415 if is_foreign else 422, str(error))


def _too_long(found: int, most: float) -> HTTPException:
    return HTTPException(413, f"the picture has {found:,} bytes or more; at most {most:,.0f} are taken")
