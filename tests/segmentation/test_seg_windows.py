"""Sliding windows: they cover an image, agree with mmseg's, and vanish where the window covers everything."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import EncoderDecoder

from pe_spatial.segmentation.windows import Window, check_window, pad_to_multiple, slide, window_places


def scores_of(inputs):
    """Scores that depend on the whole window, so that every window counts."""
    return torch.cat([inputs, inputs.mean((2, 3), keepdim=True).expand_as(inputs)], dim=1)


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (20, 33), (21, 5), (64, 17)])
def test_windows_cover_the_image_and_stay_inside(size):
    window = Window((8, 8), (5, 6))
    covered = torch.zeros(size)
    for rows, columns in window_places(*size, window):
        assert (rows.start, columns.start) >= (0, 0) and rows.stop <= size[0] and columns.stop <= size[1]
        assert rows.stop - rows.start == min(8, size[0]) and columns.stop - columns.start == min(8, size[1])
        covered[rows, columns] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (20, 33), (21, 12)])
def test_the_mean_of_windows_is_that_of_mmseg(size):
    window = Window((8, 8), (5, 6))
    inputs = torch.randn(2, 3, *size)
    model = EncoderDecoder.__new__(EncoderDecoder)
    torch.nn.Module.__init__(model)
    model.test_cfg = ConfigDict(crop_size=window.size, stride=window.stride)
    model.out_channels = 6
    model.encode_decode = lambda crop, metas: scores_of(crop)
    expected = model.slide_inference(inputs, [{}])
    torch.testing.assert_close(slide(scores_of, inputs, window), expected)


def test_a_window_that_covers_the_image_is_the_whole_image():
    inputs = torch.randn(1, 3, 9, 12)
    torch.testing.assert_close(slide(scores_of, inputs, Window((9, 16), (4, 4))), scores_of(inputs), rtol=0, atol=0)


def test_padding_is_at_the_bottom_and_the_right():
    inputs = torch.randn(1, 3, 9, 16)
    padded = pad_to_multiple(inputs, 8)
    assert padded.shape == (1, 3, 16, 16)
    assert torch.equal(padded[:, :, :9], inputs) and not padded[:, :, 9:].any()


@pytest.mark.parametrize(
    ("size", "stride", "words"), [([8], [4, 4], "must each be"), ([8, 8], [4, 9], "gaps"), ([0, 8], [1, 1], "pixels")]
)
def test_a_window_that_cannot_be_is_refused(size, stride, words):
    with pytest.raises(ValueError, match=words):
        check_window(size, stride)


def test_a_side_is_a_square_and_a_third_overlaps_unless_told():
    assert check_window(512) == Window((512, 512), (341, 341))  # the published protocol
    assert check_window([512, 1024]) == Window((512, 1024), (341, 682))
    assert check_window(8, 4) == check_window([8, 8], [4, 4])
