"""Bilinear interpolation and placing of masks on NumPy's arrays, as torch defines them."""

import numpy as np
from numpy.typing import NDArray

_STRIP = 2**22  # scores that exist at a time

Floats = NDArray[np.float32]


def enlarge(array: Floats, size: tuple[int, int], align_corners: bool = False) -> Floats:
    """Resize [..., h, w] to (H, W) by bilinear interpolation, as torch's `interpolate` does.

    Args:
        array: Numbers.
        size: (H, W).
        align_corners: Whether corners of pixels, or else their outer edges, fall together.
    """
    rows = _matrix(array.shape[-2], size[0], align_corners)
    columns = _matrix(array.shape[-1], size[1], align_corners)
    wide = array.astype(np.float32) @ columns.T
    result: Floats = np.matmul(rows, wide)
    return result


def labels_of(scores: Floats, size: tuple[int, int]) -> NDArray[np.int64]:
    """The largest of maps [K, h, w] at every pixel of (H, W), where they are enlarged a few rows at a time.

    Args:
        scores: The maps.
        size: (H, W).
    """
    rows = _matrix(scores.shape[-2], size[0], align_corners=False)
    wide = scores.astype(np.float32) @ _matrix(scores.shape[-1], size[1], align_corners=False).T
    labels = np.empty(size, np.int64)
    step = max(_STRIP // (len(scores) * size[1]), 1)
    for top in range(0, size[0], step):
        labels[top : top + step] = np.matmul(rows[top : top + step], wide).argmax(0)
    return labels


def _matrix(source: int, target: int, align_corners: bool) -> Floats:
    """The weights [target, source] of interpolation along an axis."""
    positions = np.arange(target, dtype=np.float64)
    if align_corners:
        place = positions * ((source - 1) / max(target - 1, 1))
    else:
        place = np.clip((positions + 0.5) * (source / target) - 0.5, 0, None)
    lower = np.minimum(place.astype(np.int64), source - 1)
    upper, part = np.minimum(lower + 1, source - 1), place - lower
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), lower), 1 - part)
    np.add.at(matrix, (np.arange(target), upper), part)
    return matrix.astype(np.float32)


def place_mask(
    mask: Floats, box: NDArray[np.float32], size: tuple[int, int], threshold: float = 0.5
) -> NDArray[np.bool_]:
    """Draw the mask of a box into an image.

    A pixel's value is the bilinear sample of the mask at the pixel's center, zero outside of the mask.

    Args:
        mask: [M, M] probabilities.
        box: x1, y1, x2, y2 in pixels of the image.
        size: (H, W) of the image.
        threshold: Smallest probability that is drawn.
    """
    rows = _samples(box[1], box[3], size[0], mask.shape[0])
    columns = _samples(box[0], box[2], size[1], mask.shape[1])
    drawn: NDArray[np.bool_] = rows @ mask.astype(np.float32) @ columns.T >= threshold
    return drawn


def _samples(begin: float, end: float, length: int, cells: int) -> Floats:
    """Weights [length, cells] of the samples at the centers of pixels, zero outside of the box."""
    place = (np.arange(length, dtype=np.float32) + 0.5 - np.float32(begin)) / np.float32(
        max(end - begin, 1e-6)
    ) * cells - 0.5
    distance = np.abs(place[:, None] - np.arange(cells, dtype=np.float32))
    weights: Floats = np.clip(1 - distance, 0, None)
    return weights
