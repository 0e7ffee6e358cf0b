"""Frames of a camera."""

import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.video.reading import DEFAULT_RATE, VideoFrame


class Camera:
    """The frames of a camera, without end; their times count from the first one.

    Args:
        number: As the system counts its cameras.

    Raises:
        UnreadableFile: There is no such camera, or another program has it.
    """

    count = None

    def __init__(self, number: int) -> None:
        import cv2

        self._number = number
        with self._open() as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_RATE

    def __iter__(self) -> Iterator[VideoFrame]:
        """Wait for one frame after the other; ends when the camera does."""
        start = None
        with self._open() as capture:
            for number in count():
                success, picture = capture.read()
                if not success:
                    return
                now = clock.monotonic()
                start = now if start is None else start
                image = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)  # OpenCV has BGR
                yield VideoFrame(number, now - start, image)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import cv2

        capture = cv2.VideoCapture(self._number)
        try:
            if not capture.isOpened():
                raise UnreadableFile(f"camera {self._number} cannot be opened; check the camera, or record a video")
            yield capture
        finally:
            capture.release()
