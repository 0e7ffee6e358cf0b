"""The probabilities of all classes of an image, on disk from the start: they may be larger than the memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

Add = Callable[[int, int, NDArray[np.float16]], None]  # top, left and the probabilities [R, C, K] of a rectangle


@contextmanager
def probability_file(path: Path, shape: tuple[int, int, int]) -> Iterator[Add]:
    """A float16 array [H, W, K] in a .npy file, filled tile by tile; removed if the block that fills it fails.

    `np.load(path, mmap_mode="r")` reads parts of it.

    Args:
        path: of the file.
        shape: (H, W, K).

    Yields:
        What writes the probabilities of a rectangle.
    """
    _, width, classes = shape
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:  # closing it writes what is buffered, and may fail on a full disk too
            npy.write_array_header_2_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
            start = file.tell()

            def add(top: int, left: int, values: NDArray[np.float16]) -> None:
                for row, pixels in enumerate(np.ascontiguousarray(values, "<f2"), start=top):
                    file.seek(start + 2 * classes * (row * width + left))
                    file.write(pixels.tobytes())

            yield add
    except BaseException:
        path.unlink(missing_ok=True)
        raise
