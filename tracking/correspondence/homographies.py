"""Pairs of pictures whose true correspondence is known: a photograph, and the same seen through a homography."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pe_spatial.common.errors import OptionError

Matrix = NDArray[np.float64]  # [3, 3], of points (x, y, 1) in pixels whose centers are whole numbers


@dataclass(frozen=True)
class Homographies:
    """How photographs are seen anew.

    Args:
        side: Of the square pictures, in pixels; the central square of a photograph is resized to it.
        number: Of homographies, the same ones for every photograph.
        rotation: At most so many degrees to either side.
        scale: At most so many times larger or smaller.
        shift: Of each corner and direction, at most, as a share of the side.
        gain: Colors times 1 - gain to 1 + gain, channel by channel.
        offset: Added to the colors, at most, 0…255.

    Raises:
        OptionError: A value outside its range.
    """

    side: int = 448
    number: int = 4
    rotation: float = 15.0
    scale: float = 4 / 3
    shift: float = 0.05
    gain: float = 0.2
    offset: float = 20.0

    def __post_init__(self) -> None:
        if self.side < 1 or self.number < 1:
            raise OptionError(f"side {self.side} and number {self.number} of homographies must be 1 or more")
        if self.scale < 1 or not 0 <= self.shift < 0.25 or not 0 <= self.gain < 1 or self.rotation < 0:
            raise OptionError(
                f"homographies with rotation {self.rotation}, scale {self.scale}, shift {self.shift} and gain "
                f"{self.gain}: rotation is 0 or more, scale 1 or more, shift in 0…0.25, gain in 0…1"
            )

    def square(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The central square of a picture [H, W, 3], resized to [side, side, 3] by the mean of areas."""
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        cut = np.ascontiguousarray(picture[top : top + side, left : left + side])
        method = cv2.INTER_AREA if side > self.side else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(cut, (self.side, self.side), interpolation=method), np.uint8)

    def view(self, picture: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.uint8], Matrix]:
        """A square picture [side, side, 3] seen anew, black where nothing is known.

        Returns:
            The view, and the matrix that takes pixels of the picture to pixels of the view.
        """
        rng = np.random.default_rng(seed)
        corners = (self.side - 1) * np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        size = self.scale ** rng.uniform(-1, 1)
        turn = size * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        center = (self.side - 1) / 2
        moved = (corners - center) @ turn.T + center + self.side * rng.uniform(-self.shift, self.shift, (4, 2))
        matrix = cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32)).astype(np.float64)
        view = cv2.warpPerspective(picture, matrix, (self.side, self.side), flags=cv2.INTER_LINEAR)
        colors = view * rng.uniform(1 - self.gain, 1 + self.gain, 3) + rng.uniform(-self.offset, self.offset, 3)
        return np.clip(colors.round(), 0, 255).astype(np.uint8), matrix


def project(points: NDArray[np.float64], matrix: Matrix) -> NDArray[np.float64]:
    """Points [N, 2] as (x, y) through a homography."""
    moved = np.c_[points, np.ones(len(points))] @ matrix.T
    return moved[:, :2] / moved[:, 2:]
