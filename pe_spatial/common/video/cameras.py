"""Frames of a camera."""

import time as clock
from collections.abc import Iterator

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

    def __init__(self, number: int) -> None:
        import cv2

        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise UnreadableFile(f"camera {number} cannot be opened; check the camera, or record a video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_rate = rate if 0 < rate < 1000 else DEFAULT_RATE

    def __iter__(self) -> Iterator[VideoFrame]:
        """Wait for one frame after the other; ends when the camera does."""
        number, start = 0, clock.monotonic()
        try:
            while True:
                success, picture = self._capture.read()
                if not success:
                    return
                image = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)  # OpenCV has BGR
                start = clock.monotonic() if number == 0 else start
                yield VideoFrame(number, clock.monotonic() - start, image)
                number += 1
        finally:
            self._capture.release()


def open_camera(number: int) -> Camera:
    """Open a camera by the number that the system gives it; see `Camera`."""
    return Camera(number)
