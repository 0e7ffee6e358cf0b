"""Pictures are resized as Pillow resizes them, whatever their order in memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.pictures import resize_picture


@pytest.mark.parametrize("source", [(61, 97), (97, 61), (300, 20), (20, 300)])
@pytest.mark.parametrize("size", [(7, 9), (9, 7), (130, 257), (61, 40), (10, 200), (1, 97), (61, 1)])
def test_pixels_are_those_of_pillow(source, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*source, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    by_pixels = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (by_pixels, by_pixels.contiguous(), by_pixels.flip(-1).flip(-1)):
        resized = resize_picture(image, size)
        assert resized.shape == (3, *size) and resized.dtype == torch.uint8
        assert np.array_equal(resized.permute(1, 2, 0).numpy(), expected)
