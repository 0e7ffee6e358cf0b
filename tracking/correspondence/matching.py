"""How far from its true place the most similar token lies."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pe_spatial.tracking.correspondence.homographies import Matrix, project


def token_centers(grid: tuple[int, int], stride: int) -> NDArray[np.float64]:
    """The middle (x, y) of every token of a grid (h, w), [h * w, 2] row by row, in pixels with whole centers."""
    rows, columns = (stride * np.arange(cells) + (stride - 1) / 2 for cells in grid)
    return np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)


def match_errors(first: Tensor, second: Tensor, matrix: Matrix, stride: int) -> NDArray[np.float64]:
    """Distances between the tokens that match and the true places.

    Args:
        first: Unit vectors [h, w, C] of a picture.
        second: Unit vectors [h, w, C] of its view.
        matrix: Takes pixels of the picture to pixels of the view.
        stride: Pixels per token.

    Returns:
        Pixels, one number for every token of the picture whose place is inside the view.
    """
    grid = (first.shape[0], first.shape[1])
    centers = token_centers(grid, stride)
    places = project(centers, matrix)
    inside = ((places >= -0.5) & (places <= stride * np.array(grid[::-1]) - 0.5)).all(axis=1)
    similar = first.flatten(0, 1)[torch.from_numpy(inside).to(first.device)] @ second.flatten(0, 1).T  # [N, h * w]
    found = centers[similar.argmax(dim=1).cpu().numpy()]
    return np.asarray(np.linalg.norm(found - places[inside], axis=1))
