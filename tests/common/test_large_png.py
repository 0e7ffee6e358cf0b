"""PNG files of large pictures hold what those of Pillow hold."""

import numpy as np
import pytest
from PIL import Image

from pe_spatial.common.pictures import pixels_of, read_indices, save_image, writing


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (64, 90)])
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 0), (np.uint16, 0), (np.uint8, 3)])
def test_pixels_and_text_come_back(tmp_path, monkeypatch, size, dtype, channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels) if channels else size, dtype=dtype)
    plain, large = tmp_path / "plain.png", tmp_path / "large.png"
    save_image(plain, pixels, text={"unit": "millimeters"})
    monkeypatch.setattr(writing, "LARGE", 0)
    save_image(large, pixels, text={"unit": "millimeters"})
    assert plain.read_bytes() != large.read_bytes()
    with Image.open(plain) as expected, Image.open(large) as found:
        assert found.mode == expected.mode and found.text == expected.text == {"unit": "millimeters"}
        assert (np.array(found) == np.array(expected)).all() and (np.array(found) == pixels).all()


@pytest.mark.parametrize("count", [1, 3, 10, 256])
def test_indices_keep_their_colors(tmp_path, monkeypatch, count):
    rng = np.random.default_rng(0)
    pixels, colors = rng.integers(0, count, (40, 50), dtype=np.uint8), rng.integers(0, 256, (count, 3))
    save_image(tmp_path / "plain.png", pixels, colors=colors)
    monkeypatch.setattr(writing, "LARGE", 0)
    save_image(tmp_path / "large.png", pixels, colors=colors.tolist())
    with Image.open(tmp_path / "plain.png") as expected, Image.open(tmp_path / "large.png") as found:
        assert found.mode == expected.mode == "P" and (np.array(found) == pixels).all()
        assert found.getpalette()[: 3 * count] == expected.getpalette()[: 3 * count] == colors.ravel().tolist()
        assert found.convert("RGB").tobytes() == expected.convert("RGB").tobytes()
    assert (read_indices(tmp_path / "large.png") == pixels).all()


def test_every_other_file_is_written_as_before(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 5, (40, 50), dtype=np.uint8)
    save_image(tmp_path / "plain.jpg", pixels)
    monkeypatch.setattr(writing, "LARGE", 0)
    save_image(tmp_path / "large.jpg", pixels)
    assert (tmp_path / "plain.jpg").read_bytes() == (tmp_path / "large.jpg").read_bytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 70_000), (500, 400)])
def test_pixels_of_a_picture_are_those_of_numpy(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert (pixels_of(Image.fromarray(pixels)) == pixels).all()
