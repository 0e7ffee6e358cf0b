"""Pictures: every kind of file and of array is read as one, bad ones are named, and what is written is read."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from pe_spatial.common.errors import FullDiskError, UnreadableFile, UserError
from pe_spatial.common.pictures import (
    IMAGE_SUFFIXES,
    PictureError,
    image_size,
    naming_file,
    read_image,
    read_indices,
    read_values,
    save_image,
    to_image,
)
from pe_spatial.common.suffixes import HEIF_SUFFIXES

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RGB[..., 0]


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


# --- reading ----------------------------------------------------------------------------------------------------------
def image_of(mode):
    """An image in a mode, and the RGB array [H, W, 3] that it must be read as."""
    gray = GRAY[..., None].repeat(3, -1)
    alpha = np.full((6, 8, 1), 7, np.uint8)
    return {
        "RGB": (Image.fromarray(RGB), RGB),
        "RGBA": (Image.fromarray(np.concatenate([RGB, alpha], -1)), RGB),
        "L": (Image.fromarray(GRAY), gray),
        "LA": (Image.fromarray(np.stack([GRAY, alpha[..., 0]], -1)), gray),
        "1": (Image.fromarray(GRAY > 127), 255 * (gray > 127).astype(np.uint8)),
        "I;16": (Image.fromarray(GRAY.astype(np.uint16) * 256 + 99), gray),
        "P": (Image.fromarray(RGB).quantize(256), RGB),
    }[mode]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "I;16", "P"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image, expected = image_of(mode)
    assert image.mode == mode
    loaded = read_image(save(tmp_path / "image.png", image))
    assert type(loaded) is tv_tensors.Image
    assert loaded.dtype == torch.uint8
    assert (loaded.permute(1, 2, 0).numpy() == expected).all()


def test_palette_with_transparency_keeps_its_colors(tmp_path):
    image = Image.fromarray(RGB).quantize(256)
    path = save(tmp_path / "image.png", image, transparency=bytes([0] * 10))
    assert (read_image(path).permute(1, 2, 0).numpy() == RGB).all()


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    loaded = read_image(save(tmp_path / "image.jpg", red)).float().mean((1, 2))
    assert loaded[0] > 200
    assert loaded[1:].max() < 60


def test_exif_orientation_is_applied_unless_declined(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: to be turned by 90 degrees clockwise
    path = save(tmp_path / "image.png", Image.fromarray(RGB), exif=exif)
    assert (read_image(path).permute(1, 2, 0).numpy() == np.rot90(RGB, -1)).all()
    assert (read_image(path, apply_exif=False).permute(1, 2, 0).numpy() == RGB).all()
    assert image_size(path) == (8, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tiff", "a.webp"])
def test_the_probed_size_is_that_of_the_read_image(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, Image.fromarray(RGB), exif=exif)
    assert image_size(path) == tuple(read_image(path).shape[-2:])


def test_a_size_is_probed_without_decoding(tmp_path):
    path = tmp_path / "a.png"
    save(path, Image.fromarray(RGB.repeat(50, 0).repeat(50, 1)))
    path.write_bytes(path.read_bytes()[:1000])
    assert image_size(path) == (300, 400)
    with pytest.raises(UnreadableFile, match=r"a\.png"):
        read_image(path)
    with pytest.raises(UnreadableFile, match=r"none\.png cannot be read: no such file"):
        image_size(tmp_path / "none.png")


def test_unreadable_files_are_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "truncated.png").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "float.tiff")
    for name in ("truncated.png", "text.jpg", "empty.png", "missing.png", "float.tiff"):
        with pytest.raises(UnreadableFile, match=rf"{name} cannot be read: \w"):
            read_image(tmp_path / name)


def test_bytes_and_open_files_are_read_as_the_file(tmp_path):
    path = Path(save(tmp_path / "image.png", Image.fromarray(RGB)))
    expected = read_image(path)
    assert torch.equal(read_image(path.read_bytes()), expected)
    assert torch.equal(read_image(io.BytesIO(path.read_bytes())), expected)
    with open(path, "rb") as file:
        assert torch.equal(read_image(file), expected)
    with pytest.raises(UnreadableFile, match="the given bytes cannot be read"):
        read_image(b"no image")
    with pytest.raises(UnreadableFile, match="the given file cannot be read"):
        read_image(io.BytesIO(b"no image"))
    path.write_bytes(path.read_bytes()[:60])
    with open(path, "rb") as file, pytest.raises(UnreadableFile, match=r"image\.png cannot be read"):
        read_image(file)


def test_an_image_inside_a_larger_file(tmp_path):
    image = io.BytesIO()
    Image.fromarray(RGB).save(image, format="PNG")
    content = image.getvalue()
    (tmp_path / "a.tar").write_bytes(b"x" * 7 + content + b"y" * 9)
    loaded = read_image("a.tar/a.png", archive=(str(tmp_path / "a.tar"), 7, len(content)))
    assert (loaded.permute(1, 2, 0).numpy() == RGB).all()
    with pytest.raises(UnreadableFile, match=r"a\.tar/a\.png cannot be read"):
        read_image("a.tar/a.png", archive=(str(tmp_path / "a.tar"), 8, len(content)))


# --- pictures in memory -----------------------------------------------------------------------------------------------
def test_pictures_in_memory_are_accepted_in_every_form():
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    alpha = np.concatenate([RGB, GRAY[..., None]], -1)
    for picture in (Image.fromarray(RGB), RGB, tensor, RGB[::-1][::-1], alpha, Image.fromarray(alpha)):
        assert torch.equal(to_image(picture).as_subclass(torch.Tensor), tensor)
    gray = torch.from_numpy(GRAY).expand(3, -1, -1)
    for picture in (GRAY, Image.fromarray(GRAY), GRAY[:, ::-1][:, ::-1]):
        assert torch.equal(to_image(picture).as_subclass(torch.Tensor), gray)


def test_opencv_arrays_are_turned_to_rgb():
    expected = to_image(RGB)
    bgr = RGB[..., ::-1]
    assert torch.equal(to_image(bgr, channels="bgr"), expected)
    assert torch.equal(to_image(np.concatenate([bgr, GRAY[..., None]], -1), channels="bgr"), expected)
    assert torch.equal(to_image(GRAY, channels="bgr"), to_image(GRAY))
    with pytest.raises(PictureError, match="'hsv' is neither"):
        to_image(RGB, channels="hsv")


def test_an_array_is_copied_not_borrowed():
    for array in (RGB.copy(), GRAY.copy()):
        image = to_image(array)
        before = image.clone()
        array[:] = 0
        assert torch.equal(image, before)


@pytest.mark.parametrize(
    "wrong",
    [
        RGB.astype(np.float32),
        GRAY.astype(np.uint16),
        RGB[None],
        RGB[..., :2],
        np.zeros(5, np.uint8),
        torch.zeros(6, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 6, 8),
        "name.jpg",
        None,
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="is not an image; pass a PIL image") as caught:
        to_image(wrong)
    assert isinstance(caught.value, UserError)


# --- indices and depth ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_indices_are_what_the_file_holds(tmp_path, mode):
    indices = np.random.default_rng(1).integers(0, 2 if mode == "1" else 5, (6, 8))
    if mode == "I;16":
        indices *= 300
    dtype = {"I;16": np.uint16, "1": bool}.get(mode, np.uint8)
    image = Image.fromarray(indices.astype(dtype))
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9, 1, 2, 3, 8, 8, 8])
    assert image.mode == mode
    path = save(tmp_path / "labels.png", image)
    for colors in (False, True):
        loaded = read_indices(path, colors=colors)
        assert loaded.dtype == np.int64
        assert (loaded == indices).all()


def test_colors_are_read_where_they_may_be(tmp_path):
    path = save(tmp_path / "colors.png", Image.fromarray(np.concatenate([RGB, GRAY[..., None]], -1)))
    assert (read_indices(path, colors=True) == RGB).all()
    for kind in (UnreadableFile, ValueError):
        with pytest.raises(kind, match=r"colors\.png cannot be read: mode RGBA holds colors, not indices; save"):
            read_indices(path)
    path = save(tmp_path / "real.tiff", Image.fromarray(GRAY.astype(np.float32)))
    with pytest.raises(UnreadableFile, match=r"real\.tiff.*mode F is neither indices nor colors"):
        read_indices(path, colors=True)


def test_16_bits_are_read_whole(tmp_path):
    values = np.random.default_rng(2).integers(0, 2**16, (6, 8)).astype(np.uint16)
    assert (read_values(save(tmp_path / "depth.png", Image.fromarray(values))) == values).all()
    with pytest.raises(UnreadableFile, match=r"eight\.png.*8 bits per value.*16-bit"):
        read_values(save(tmp_path / "eight.png", Image.fromarray(GRAY)))


@pytest.mark.parametrize("read", [read_image, read_indices, read_values, image_size])
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "it is empty"), (b"x", "it is empty or no")]
)
def test_every_reader_names_the_file_and_the_reason(tmp_path, read, content, reason):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=rf"{path} cannot be read: {reason}"):
        read(path)


def test_a_want_of_memory_or_of_a_package_is_no_fault_of_the_file():
    for error in (MemoryError, ImportError):
        with pytest.raises(error), naming_file("a.png"):
            raise error


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [suffix for suffix in IMAGE_SUFFIXES if suffix not in (".pgm", *HEIF_SUFFIXES)])
def test_what_is_written_is_read(tmp_path, suffix):
    flat = np.full_like(RGB, 90)  # which lossy formats keep
    for number, picture in enumerate((flat, Image.fromarray(flat), torch.from_numpy(flat).permute(2, 0, 1))):
        path = tmp_path / "new" / f"{number}{suffix}"
        save_image(path, picture)
        assert (read_image(path).permute(1, 2, 0).numpy() == flat).all()
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_indices_keep_their_values_and_get_colors(tmp_path):
    indices = (GRAY % 3).copy()
    save_image(tmp_path / "a.png", indices, colors=[[255, 0, 0], [0, 255, 0], [1, 2, 3]])
    assert (read_indices(tmp_path / "a.png") == indices).all()
    shown = read_image(tmp_path / "a.png").permute(1, 2, 0).numpy()
    assert (shown == np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3]])[indices]).all()


def test_16_bits_and_text_are_kept(tmp_path):
    values = GRAY.astype(np.uint16) * 255
    save_image(tmp_path / "a.png", values, text={"unit": "millimeters"})
    assert (read_values(tmp_path / "a.png") == values).all()
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["unit"] == "millimeters"


def test_a_failed_write_leaves_the_old_picture(tmp_path, small_files):
    path = tmp_path / "a.png"
    save_image(path, RGB)
    large = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    with small_files(20_000), pytest.raises(FullDiskError, match=r"a\.png"):
        save_image(path, large)
    assert (read_image(path).permute(1, 2, 0).numpy() == RGB).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_no_picture_is_refused(tmp_path):
    with pytest.raises(PictureError, match=r"a\.txt ends in '\.txt'"):
        save_image(tmp_path / "a.txt", RGB)
    assert not list(tmp_path.iterdir())
