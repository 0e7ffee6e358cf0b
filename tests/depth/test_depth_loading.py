import builtins

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.errors import AnnotationError, MissingPackage, UnreadableFile
from pe_spatial.depth.loading import LoadDepthMap, read_depth

METERS = np.array([[0.0, 1.5, 2.25], [3.0, 9.999, 4.0]], np.float32)


def write(path, meters=METERS, scale=0.001):
    if path.suffix == ".png":
        Image.fromarray((meters / scale).round().astype(np.uint16)).save(path)
    elif path.suffix == ".npy":
        np.save(path, meters)
    else:
        write_exr(path, {"Z": meters})
    return path


def write_exr(path, channels):
    exr = pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    with exr.File({}, {name: exr.Channel(np.ascontiguousarray(values)) for name, values in channels.items()}) as file:
        file.write(str(path))


def load(path, scale=0.001, size=METERS.shape, **options):
    return LoadDepthMap(**options)(
        {"depth_path": str(path), "depth_scale": scale, "ori_shape": size, "img_path": "image.jpg"}
    )["depth"]


@pytest.mark.parametrize("suffix", [".png", ".npy", ".exr"])
def test_every_format_gives_meters(tmp_path, suffix):
    depth = load(write(tmp_path / f"depth{suffix}"))
    assert depth.dtype == torch.float32 and depth.shape == (1, 2, 3)
    assert np.allclose(depth[0].numpy(), METERS, atol=5e-4)


@pytest.mark.parametrize("scale", [0.001, 1 / 256, 0.0002])
def test_the_stated_scale_of_a_png_is_applied(tmp_path, scale):
    depth = load(write(tmp_path / "depth.png", scale=scale), scale)
    assert np.allclose(depth[0].numpy(), METERS, atol=scale)


def test_16_bits_are_read_whole(tmp_path):
    Image.fromarray(np.array([[65535, 32768, 1000]], np.uint16)).save(tmp_path / "depth.png")
    assert load(tmp_path / "depth.png", size=(1, 3))[0, 0].tolist() == pytest.approx([65.535, 32.768, 1.0])


@pytest.mark.parametrize("suffix", [".npy", ".exr"])
def test_infinity_is_missing(tmp_path, suffix):
    meters = METERS.copy()
    meters[0, 1], meters[0, 2] = np.inf, -np.inf
    depth = load(write(tmp_path / f"depth{suffix}", meters))
    assert depth[0, 0].tolist() == [0, 0, 0]
    assert np.allclose(depth[0, 1].numpy(), METERS[1])


def test_exr_channels_of_other_names(tmp_path):
    write_exr(tmp_path / "one.exr", {"distance": METERS})
    write_exr(tmp_path / "blender.exr", {"V": METERS, "other": METERS + 1})
    write_exr(tmp_path / "none.exr", {"foo": METERS, "bar": METERS})
    for name in ("one.exr", "blender.exr"):
        assert np.allclose(load(tmp_path / name)[0].numpy(), METERS)
    with pytest.raises(UnreadableFile, match="none of its channels bar, foo is called Z, Y"):
        load(tmp_path / "none.exr")


def test_exr_without_its_package_names_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "depth.exr").write_bytes(b"")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "OpenEXR":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackage, match="pip install"):
        load(tmp_path / "depth.exr")


# --- bad input --------------------------------------------------------------------------------------------------------
def test_another_size_names_both_files(tmp_path):
    with pytest.raises(AnnotationError, match=r"depth.png is \(2, 3\) \(H, W\) but its image image.jpg is \(4, 3\)"):
        load(write(tmp_path / "depth.png"), size=(4, 3))


@pytest.mark.parametrize(
    ("suffix", "factor", "scale", "message"),
    [
        (".png", 1.0, 1.0, None),
        (".png", 1000.0, 1.0, "looks like millimeters, with a median of 3 m. depth_scale 1 may have to be 0.001"),
        (".png", 1.0, 0.001, "looks like meters, with a median of 3 m. depth_scale 0.001 may have to be 1"),
        (".npy", 1000.0, None, "looks like millimeters.*npy files hold meters: multiply the values by 0.001"),
        (".npy", 0.001, None, "looks like meters.*multiply the values by 1000"),
    ],
)
def test_the_wrong_unit_is_told(tmp_path, suffix, factor, scale, message):
    path = write(tmp_path / f"depth{suffix}", METERS * np.float32(factor), scale=1.0)
    if message is None:
        assert load(path, scale).max() > 0
        return
    with pytest.raises(AnnotationError, match=message):
        load(path, scale)
    assert load(path, scale, allow_any_unit=True).max() > 0


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "1 pixels are NaN and 0 neg"), (-1.0, "0 pixels are NaN and 1")]
)
def test_values_that_are_no_depth(tmp_path, value, message):
    meters = METERS.copy()
    meters[1, 1] = value
    path = write(tmp_path / "depth.npy", meters)
    with pytest.raises(AnnotationError, match=message):
        load(path)
    assert load(path, allow_invalid=True)[0, 1].tolist() == [3.0, 0.0, 4.0]


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_a_map_without_any_measurement(tmp_path, value):
    path = write(tmp_path / "depth.npy", np.full((2, 3), value, np.float32))
    with pytest.raises(AnnotationError, match="no pixel has a measurement; remove the file, or set allow_empty=True"):
        load(path)
    assert (load(path, allow_empty=True) == 0).all()


def test_a_png_needs_a_scale(tmp_path):
    path = write(tmp_path / "depth.png")
    for scale in (None, 0.0, -1.0):
        with pytest.raises(AnnotationError, match="a PNG needs a scale in"):
            read_depth(path, scale)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".exr"])
def test_missing_and_damaged_files_are_named(tmp_path, suffix):
    if suffix == ".exr":
        pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    path = tmp_path / f"depth{suffix}"
    with pytest.raises(UnreadableFile, match=f"depth{suffix} cannot be read: no such file"):
        load(path)
    write(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UnreadableFile, match=f"depth{suffix} cannot be read"):
        load(path)


def test_other_formats_are_refused(tmp_path):
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "gray.png")
    np.save(tmp_path / "cube.npy", np.ones((2, 3, 4), np.float32))
    with pytest.raises(UnreadableFile, match="8 bits per value"):
        load(tmp_path / "gray.png")
    with pytest.raises(UnreadableFile, match=r"shape \(2, 3, 4\) is not a depth map"):
        load(tmp_path / "cube.npy")
    with pytest.raises(UnreadableFile, match="is not one of .png, .npy, .exr"):
        load(tmp_path / "depth.bmp")


def test_it_needs_the_size_of_the_image(tmp_path):
    with pytest.raises(ValueError, match="put LoadImage before it"):
        LoadDepthMap()({"depth_path": str(write(tmp_path / "depth.png"))})
