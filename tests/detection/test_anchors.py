import pytest
import torch

from pe_spatial.detection.mask_rcnn.anchors import cell_anchors, grid_anchors


def test_shapes_of_a_cell_are_not_rounded():
    anchors = cell_anchors(32, (0.5, 1.0, 2.0))
    assert anchors[0].tolist() == pytest.approx([-22.627417, -11.313708, 22.627417, 11.313708])
    assert anchors[1].tolist() == [-16, -16, 16, 16]
    width, height = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    torch.testing.assert_close(width * height, torch.full((3,), 32.0**2))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]))


def test_grid_is_rows_first_and_starts_at_the_corner():
    (anchors,) = grid_anchors([(2, 3)], [8], [16], [1.0])
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert center.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]


def test_strides_may_be_fractions():
    fine, coarse = grid_anchors([(1, 4), (1, 2)], [3.5, 7], [32, 64], [1.0])
    assert ((fine[:, 0] + fine[:, 2]) / 2).tolist() == [0, 3.5, 7, 10.5]
    assert (coarse[:, 2] - coarse[:, 0]).tolist() == [64, 64]
