"""The probabilities of all classes of an image, on disk from the start: they may be larger than the memory."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class ProbabilityFile:
    """A float16 array [H, W, K] in a .npy file, filled tile by tile; removed if the block that fills it fails.

    `np.load(path, mmap_mode="r")` reads parts of it.

    Args:
        path: of the file.
        shape: (H, W, K).
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = shape
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        npy.write_array_header_2_0(self._file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        self._start = self._file.tell()

    def add(self, top: int, left: int, values: NDArray[np.float16]) -> None:
        """Write the probabilities [R, C, K] of a rectangle."""
        _, width, classes = self.shape
        for row, pixels in enumerate(np.ascontiguousarray(values, "<f2"), start=top):
            self._file.seek(self._start + 2 * classes * (row * width + left))
            self._file.write(pixels.tobytes())

    def __enter__(self) -> ProbabilityFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # writes what is buffered, and may fail on a full disk too
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        if error is not None:
            self.path.unlink(missing_ok=True)
