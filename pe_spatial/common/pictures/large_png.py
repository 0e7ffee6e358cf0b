"""PNG files of large pictures: one filter and the fastest compression.

Pillow tries all five filters on every row and compresses at level 6: a depth map of 36 megapixels takes it 2 seconds.
Differences to the left neighbor, compressed at level 1 by Intel's ISA-L, take a tenth of that, and maps of few or
smooth values become smaller files. The pixels are the same, as with any PNG.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
from isal import isal_zlib as zlib
from numpy.typing import NDArray

LARGE = 2**22  # pixels from which on it is worth the larger files that a picture with grain becomes
_SUB = 1  # the filter: the difference to the pixel at the left
_ROWS_AT_A_TIME = 2**18  # bytes of them, which stay in the cache


def write_large_png(
    file: IO[bytes],
    pixels: NDArray[np.uint8] | NDArray[np.uint16],
    text: Mapping[str, str],
    colors: NDArray[np.uint8] | None = None,
) -> None:
    """Write a PNG.

    Args:
        file: Open for writing.
        pixels: uint8 or uint16 [H, W], or uint8 [H, W, 3] RGB.
        text: Entries in Latin-1, as PNG has them.
        colors: Palette [K, 3] of indices uint8 [H, W].
    """
    height, width = pixels.shape[:2]
    color = 3 if colors is not None else 2 if pixels.ndim == 3 else 0
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, 0))
    for key, value in text.items():
        _write_chunk(file, b"tEXt", key.encode("latin-1") + b"\0" + value.encode("latin-1"))
    if colors is not None:
        _write_chunk(file, b"PLTE", colors.tobytes())
    packed = zlib.compressobj(1)
    for rows in _filtered(pixels):
        if data := packed.compress(rows.data):
            _write_chunk(file, b"IDAT", data)
    _write_chunk(file, b"IDAT", packed.flush())
    _write_chunk(file, b"IEND", b"")


def _filtered(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Iterator[NDArray[np.uint8]]:
    """Rows of bytes, each behind the number of its filter."""
    step = pixels.itemsize * (1 if pixels.ndim == 2 else pixels.shape[2])  # bytes of a pixel
    length = step * pixels.shape[1]
    count = max(_ROWS_AT_A_TIME // length, 1)
    for top in range(0, len(pixels), count):
        some = np.ascontiguousarray(pixels[top : top + count], pixels.dtype.newbyteorder(">"))
        plain = some.view(np.uint8).reshape(len(some), length)
        rows = np.empty((len(some), length + 1), np.uint8)
        rows[:, 0] = _SUB
        rows[:, 1 : step + 1] = plain[:, :step]
        np.subtract(plain[:, step:], plain[:, :-step], out=rows[:, step + 1 :])
        yield rows


def _write_chunk(file: IO[bytes], kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind)
    file.write(data)
    file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
