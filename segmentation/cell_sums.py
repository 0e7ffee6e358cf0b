"""Sums over the pixels of cells, most of them without looking at every pixel.

The mean probability of a mask is a sum over its pixels, of which a photograph has millions. Within a cell of the map
the logit is bilinear, so that its sigmoid is smooth. The sum of a smooth function over all pixels of a cell is that
over a few points with weights: a Gauss quadrature for the pixels' positions, exact for polynomials of degree 15 (Golub
and Welsch, 1969). Where the logit changes its sign, or by much, every pixel is looked at.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pe_spatial.segmentation.cell_grid import CellGrid, Side, corners

_POINTS = 8  # of a quadrature, along each side of a cell
_SMOOTH = 8.0  # difference of the logits of a cell up to which these points are enough: errors stay below 1e-6
_AT_ONCE = 2**20  # values
_VANISHED = 1e-22  # squared norm of a polynomial, of 1, that is 0 at all pixels of a cell


class Points(NamedTuple):
    """Points along one side of cells.

    Attributes:
        part: How far each is on the way to the next entry of the map [cells, P].
        weight: How many pixels it stands for [cells, P], 0 where a cell has fewer points.
    """

    part: Tensor
    weight: Tensor

    def of(self, cells: Tensor) -> "Points":
        """Those of some cells, as many as the one with the most of them needs."""
        weight = self.weight[cells]
        most = int((weight > 0).sum(1).amax())
        return Points(self.part[cells, :most], weight[:, :most])


class CellSums:
    """Sums over the pixels of the cells of a picture.

    Args:
        grid: Of the picture.
    """

    def __init__(self, grid: CellGrid) -> None:
        self.grid = grid
        self.pixels = (_every_pixel(grid.rows), _every_pixel(grid.columns))

    @cached_property
    def points(self) -> tuple[Points, Points]:
        """A few for the pixels of each cell, along its rows and columns."""
        return _quadrature(self.pixels[0]), _quadrature(self.pixels[1])

    def probability(self, logits: Tensor, margin: float) -> float:
        """The sum of the probabilities of a mask over the pixels where it is on, up to rounding.

        Args:
            logits: [h, w].
            margin: Nearer to 0, every pixel is looked at.
        """
        low, high = corners(logits)
        inner = (low > margin) & (high - low < _SMOOTH)
        total = 0.0
        for values, (rows, columns) in self._values(logits, inner, self.points):
            total += _weighted(values.sigmoid_(), rows, columns)
        for values, (rows, columns) in self._values(logits, (high > -margin) & ~inner, self.pixels):
            total += _weighted((values > 0) * values.sigmoid(), rows, columns)
        return total

    def count(self, logits: Tensor, mixed: Tensor) -> int:
        """How many pixels of some cells, bool [h, w], have a probability of one half or more.

        Args:
            logits: [h, w].
            mixed: The cells.
        """
        found = 0.0
        for values, (rows, columns) in self._values(logits, mixed, self.pixels):
            found += _weighted((values.sigmoid_() >= 0.5).float(), rows, columns)
        return round(found)

    def _values(
        self, logits: Tensor, asked: Tensor, points: tuple[Points, Points]
    ) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """The enlarged map [M, R, C] at the points of some cells, and the weights of its rows and columns."""
        row, column = asked.nonzero(as_tuple=True)
        if not len(row):
            return
        most = points[0].part.shape[1] * points[1].part.shape[1]
        for rows, columns in zip(*(each.split(max(_AT_ONCE // most, 1)) for each in (row, column)), strict=True):
            down, right = points[0].of(rows.cpu()), points[1].of(columns.cpu())
            below, behind = (rows + 1).clamp_max(len(logits) - 1), (columns + 1).clamp_max(logits.shape[1] - 1)
            part = right.part.to(logits)
            above, under = (
                torch.lerp(logits[place, columns][:, None], logits[place, behind][:, None], part)
                for place in (rows, below)
            )
            values = torch.lerp(above[:, None], under[:, None], down.part.to(logits)[:, :, None])
            yield values, (down.weight.to(logits), right.weight.to(logits))


def _weighted(values: Tensor, rows: Tensor, columns: Tensor) -> float:
    """The sum of [M, R, C], which is overwritten, with weights [M, R] and [M, C].

    Autocast would round a product of matrices.
    """
    return float(values.mul_(columns[:, None]).sum(2).mul_(rows).sum(1).double().sum())


def _every_pixel(side: Side) -> Points:
    count = side.starts.diff()
    number = torch.arange(max(int(count.amax()), 1))
    weight = (number < count[:, None]).double()
    place = (side.starts[:-1, None] + number).clamp_max(side.pixels - 1)
    return Points(side.part[place] * weight, weight)


def _quadrature(pixels: Points) -> Points:
    """A few points for each cell with weights, whose sums of polynomials are those over all of its pixels.

    The points are the zeros of the polynomial that is orthogonal for these pixels: the eigenvalues of the matrix of its
    recurrence, which Stieltjes' procedure gives.
    """
    place, weight = (each.double() for each in pixels)
    if place.shape[1] <= _POINTS:
        return pixels
    total = weight.sum(1)
    before, now = torch.zeros_like(place), torch.ones_like(place)
    norm = total.clamp_min(1)
    matrix = torch.zeros(len(place), _POINTS, _POINTS, dtype=torch.float64)
    ratio = torch.zeros_like(norm)
    for degree in range(_POINTS):
        exists = norm > _VANISHED * total  # a cell of fewer pixels has fewer points
        middle = torch.where(exists, (weight * place * now**2).sum(1) / norm.clamp_min(1e-300), 0.5)
        matrix[:, degree, degree] = middle
        if degree:
            matrix[:, degree, degree - 1] = matrix[:, degree - 1, degree] = ratio.sqrt()
        before, now = now, (place - middle[:, None]) * now - ratio[:, None] * before
        following = (weight * now**2).sum(1)
        following = following.where(following > _VANISHED * total, torch.zeros_like(following))
        ratio, norm = torch.where(norm > 0, following / norm.clamp_min(1e-300), 0), following
    points, vectors = torch.linalg.eigh(matrix)
    return Points(points, total[:, None] * vectors[:, 0] ** 2)
