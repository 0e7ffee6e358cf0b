"""Windows: they cover an axis without gaps, and their weighted mean gives back what they agree on."""

import math

import pytest
import torch

from pe_spatial.common.windows import blend, even_starts, regions, strided_starts


@pytest.mark.parametrize(("length", "window"), [(100, 32), (33, 32), (64, 32), (1000, 37)])
@pytest.mark.parametrize("overlap", [0.1, 0.5])
def test_even_windows_cover_everything_and_overlap_enough(length, window, overlap):
    starts = even_starts(length, window, overlap)
    assert starts[0] == 0 and starts[-1] + window == length
    assert all(b - a <= math.ceil(window * (1 - overlap)) for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize(
    ("length", "stride", "starts"), [(8, 5, [0]), (5, 5, [0]), (18, 5, [0, 5, 10]), (19, 5, [0, 5, 10, 11])]
)
def test_strided_windows_end_with_the_axis(length, stride, starts):
    assert strided_starts(length, 8, stride) == starts


@pytest.mark.parametrize("weight", [1, torch.rand(4, 5) + 0.1])
def test_windows_of_one_image_blend_to_the_image(weight):
    image = torch.randn(2, 3, 11, 13)
    places = regions(strided_starts(11, 4, 3), even_starts(13, 5, 0.4), (4, 5))
    parts = ((region, weight * image[(..., *region)]) for region in places)
    torch.testing.assert_close(blend(parts, weight, (11, 13)), image)


def test_the_heavier_window_counts_more():
    parts = [((slice(0, 2), slice(0, 2)), torch.ones(2, 2)), ((slice(0, 2), slice(1, 3)), torch.full((2, 2), 5.0))]
    assert blend(parts, 1, (2, 3)).tolist() == [[1, 3, 5]] * 2
