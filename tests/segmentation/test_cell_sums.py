"""Sums over pixels from a few points of each cell: equal to those over all pixels."""

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.segmentation.cell_grid import CellGrid
from pe_spatial.segmentation.cell_sums import CellSums

SIZES = [((16, 20), (300, 411)), ((9, 7), (500, 90)), ((40, 50), (90, 130)), ((1, 1), (40, 50)), ((3, 4), (1000, 1500))]


def logits(seed, size, spread):
    torch.manual_seed(seed)
    rough = spread * torch.randn(1, 1, *(max(side // 4, 1) for side in size))
    return F.interpolate(rough, size, mode="bilinear")[0, 0]


def enlarged(values, frame):
    return F.interpolate(values[None, None].double(), frame, mode="bilinear")[0, 0]


@pytest.mark.parametrize(("cells", "frame"), SIZES)
def test_points_stand_for_the_pixels_of_their_cell(cells, frame):
    sums = CellSums(CellGrid(cells, frame))
    for points, pixels in zip(sums.points, sums.pixels, strict=True):
        assert (points.weight >= -1e-9).all()
        for degree in range(16):
            expected = (pixels.weight * pixels.part.double() ** degree).sum(1)
            torch.testing.assert_close((points.weight * points.part.double() ** degree).sum(1), expected)


@pytest.mark.parametrize(("cells", "frame"), SIZES)
@pytest.mark.parametrize("spread", [0.1, 5.0, 40.0, 400.0])  # the last ones change by tens of logits within a cell
def test_probabilities_and_pixels_add_up(cells, frame, spread):
    sums = CellSums(CellGrid(cells, frame))
    for seed in range(4):
        values = logits(seed, cells, spread) + spread / 4
        whole = enlarged(values, frame)
        expected = float((whole.sigmoid() * (whole > 0)).sum())
        found = sums.probability(values, 1e-4 * float(values.abs().amax()))
        assert found == pytest.approx(expected, rel=2e-6, abs=1e-3)
        everywhere = torch.ones(cells, dtype=torch.bool)
        assert abs(sums.count(values, everywhere) - int((whole >= 0).sum())) <= 1


@pytest.mark.parametrize("top", [2.0, 8.0, 20.0, 100.0])
def test_a_cell_that_rises_from_the_border_to_certainty(top):
    values = torch.tensor([[0.01, top], [top, top]])
    whole = enlarged(values, (1000, 1000))
    found = CellSums(CellGrid((2, 2), (1000, 1000))).probability(values, 1e-4)
    assert found == pytest.approx(float(whole.sigmoid().sum()), rel=3e-7)


def test_nothing_is_rounded_under_autocast():
    sums, values = CellSums(CellGrid((16, 20), (300, 411))), logits(0, (16, 20), 5.0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = sums.probability(values, 1e-3)
    assert rounded == sums.probability(values, 1e-3) > 0
