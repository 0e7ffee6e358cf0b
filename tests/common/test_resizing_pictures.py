"""Pictures in strips are resized as whole ones by Pillow, whatever their order in memory and the threads."""

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.pictures import resize_picture, resizing


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("strip", [1, 100, 2**18])
@pytest.mark.parametrize("size", [(7, 9), (61, 40), (130, 257), (61, 97), (1, 97), (61, 1)])
def test_strips_give_what_pillow_gives(size, strip, count, threads, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    by_pixels = torch.from_numpy(pixels).permute(2, 0, 1)
    threads(count)
    for large in (0, resizing._LARGE):
        monkeypatch.setattr(resizing, "_LARGE", large)
        monkeypatch.setattr(resizing, "_STRIP", strip)
        for image in (by_pixels, by_pixels.contiguous(), by_pixels.flip(-1).flip(-1)):
            resized = resize_picture(image, size)
            assert resized.shape == (3, *size) and resized.dtype == torch.uint8
            assert np.array_equal(resized.permute(1, 2, 0).numpy(), expected)
