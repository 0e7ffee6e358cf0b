"""Pictures of many bits, bands and pages: by the stated rule, by a guess that is said, or refused by what they are."""

import io
import struct
import warnings
import zlib
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import pe_spatial.common.picture_files as opening
import pe_spatial.common.pictures.rasters as rasters
from pe_spatial.common.errors import MissingPackage, OptionError, UnreadableFile
from pe_spatial.common.pictures import ValueRule, image_size, picture_facts, read_image, read_indices, read_values

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 4096, (5, 7, 4)).astype(np.uint16)
DEEP[0, 0] = 4095  # so that every band needs 12 bits


@pytest.fixture(autouse=True)
def silence_is_no_memory(monkeypatch):
    monkeypatch.setattr(opening, "_said", set())


def pixels(path, rule=None):
    return read_image(path, rule=rule or ValueRule()).permute(1, 2, 0).numpy()


def png_16(colors, values):
    """A PNG of 16 bits, of the color type of its standard; Pillow writes none but gray."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colors, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(path, values, **options):
    planar = options.get("planarconfig") == "separate"
    tifffile.imwrite(path, np.moveaxis(values, -1, 0) if planar else values, **{"photometric": "rgb", **options})
    return path


# --- the range of values ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_guess_keeps_all_gray_levels_and_is_said_once(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 1024).astype(np.uint16).reshape(32, 32)
    for name in ("a.png", "b.tif", "c.png"):
        Image.fromarray(values).save(tmp_path / name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [pixels(tmp_path / name) for name in ("a.png", "c.png", "b.tif")]
    assert all((each == found[0]).all() and len(np.unique(each)) == 256 for each in found)
    says = [str(warning.message) for warning in caught]
    kinds = {f"uses {bits} bits, so its values are taken as 0…{2**bits - 1} (as 0…65535, {2 ** (bits - 8)} gray levels"}
    assert len(says) == (0 if bits == 16 else 2)  # one for each format
    assert all(any(kind in text for kind in kinds) for text in says)


@pytest.mark.parametrize("colors", [2, 6, 4])
def test_16_bits_of_colors_are_no_darker_than_those_of_gray(tmp_path, colors):
    count = {2: 3, 6: 4, 4: 2}[colors]
    (tmp_path / "a.png").write_bytes(png_16(colors, DEEP[..., :count]))
    with pytest.warns(UserWarning, match="uses 12 bits"):
        found = pixels(tmp_path / "a.png")
    expected = DEEP[..., :3] if count > 2 else DEEP[..., [0, 0, 0]]
    assert (found == expected >> 4).all()


def test_a_stated_range_is_the_guess_where_both_agree_and_holds_elsewhere(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(DEEP[..., 0]).save(path)
    with pytest.warns(UserWarning):
        guessed = pixels(path)
    assert (pixels(path, ValueRule.of([0, 4095])) == guessed).all()
    narrow = pixels(path, ValueRule.of([1000, 1999]))[..., 0]
    values = DEEP[..., 0]
    assert (narrow[values <= 1000] == 0).all() and (narrow[values >= 1999] == 255).all()
    assert abs(int(narrow[np.abs(values - 1500).argmin() // 7, np.abs(values - 1500).argmin() % 7]) - 128) < 26


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("bands", [1, 3])
def test_values_without_a_natural_range_need_one(tmp_path, kind, bands):
    values = (DEEP[..., :bands].astype(np.int64) * 40 - 20000 * (np.dtype(kind).kind != "u")).astype(kind)
    path = tiff(tmp_path / "a.tif", values.squeeze(), photometric="rgb" if bands == 3 else "minisblack")
    bits = np.dtype(kind).itemsize * 8
    with pytest.raises(UnreadableFile, match=rf"a TIFF of .*band.*{bits} bits.*reach from .* set value_range"):
        read_image(path)
    low, high = float(values.min()), float(values.max())
    found = pixels(path, ValueRule.of([low, high]))
    expected = (values.astype(float) - low) / (high - low) * 255
    assert np.abs(found - expected).max() <= 1


def test_what_is_no_number_is_black_and_said(tmp_path):
    Image.fromarray(np.array([[0, np.nan, 1, np.inf]], np.float32)).save(tmp_path / "a.tif")
    with pytest.warns(UserWarning, match="NaN"):
        assert pixels(tmp_path / "a.tif", ValueRule.of([0, 1]))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_few_levels_that_are_left_are_said(tmp_path):
    values = np.linspace(0, 4000, 1024).astype(np.uint16).reshape(32, 32)
    values[0, 0] = 65535  # one bright pixel, and the rest is nearly black
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="17 of 256 gray levels are left of more values; set value_range"):
        pixels(tmp_path / "a.png")


def test_pgm_states_its_range_itself(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n2 1\n4095\n" + np.array([4095, 100], ">u2").tobytes())
    assert pixels(tmp_path / "a.pgm")[0, :, 0].tolist() == [255, 6]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK"])
def test_8_bits_stay_as_they_are_under_any_range(tmp_path, mode):
    image = Image.fromarray(RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    assert (pixels(path, ValueRule.of([0, 4095])) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("wrong", [[1], [5, 5], [9, 2], "12", [0, float("nan")], [True, 2], 7])
def test_a_range_is_two_numbers(wrong):
    with pytest.raises(OptionError, match=r"value_range .* \[0, 4095\]"):
        ValueRule.of(wrong)


# --- bands ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_layout_of_four_bands_gives_the_stated_ones(tmp_path, planar, photometric, kind, compression):
    values = (DEEP >> 4 if kind == np.uint8 else DEEP << 4).astype(kind)
    path = tiff(tmp_path / "a.tif", values, planarconfig=planar, photometric=photometric, compression=compression)
    eight = values if kind == np.uint8 else (values >> 8).astype(np.uint8)
    assert (pixels(path, ValueRule.of(None, [2, 1, 3])) == eight[..., [1, 0, 2]]).all()
    assert (pixels(path, ValueRule.of(None, [1])) == eight[..., [0, 0, 0]]).all()
    assert image_size(path) == (5, 7)
    if photometric == "rgb":
        assert (pixels(path) == eight[..., :3]).all()
        return
    bits = np.dtype(kind).itemsize * 8
    with pytest.raises(UnreadableFile, match=rf"it is a TIFF of 4 bands, {bits} bits each, .*set bands"):
        read_image(path)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_other_numbers_of_bands_are_asked_for(tmp_path, count):
    values = RANDOM.integers(0, 256, (5, 7, count), dtype=np.uint8)
    path = tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="separate")
    with pytest.raises(UnreadableFile, match=rf"{count} bands, 8 bits each"):
        read_image(path)
    assert (pixels(path, ValueRule.of(None, [count, 1, 2])) == values[..., [count - 1, 0, 1]]).all()
    with pytest.raises(UnreadableFile, match=f"no band {count + 1}"):
        read_image(path, rule=ValueRule.of(None, [count + 1]))


def test_three_bands_that_are_called_nothing_are_taken_and_said(tmp_path):
    path = tiff(tmp_path / "a.tif", DEEP[..., :3] << 4, photometric="minisblack", planarconfig="separate")
    with pytest.warns(UserWarning, match="taken as red, green and blue"):
        assert (pixels(path) == DEEP[..., :3] >> 4).all()


def test_bands_of_ordinary_files(tmp_path):
    rgb = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png", ValueRule.of(None, [3, 2, 1])) == rgb[..., ::-1]).all()
    with pytest.raises(UnreadableFile, match="a PNG of 3 bands, 8 bits each, which has no band 4"):
        read_image(tmp_path / "a.png", rule=ValueRule.of(None, [4, 3, 2]))


@pytest.mark.parametrize("wrong", [[0, 1, 2], [1, 2], [1.0], "321", [True], []])
def test_bands_are_one_or_three_numbers(wrong):
    with pytest.raises(OptionError, match=r"bands .* \[3, 2, 1\]"):
        ValueRule.of(None, wrong)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_like_others(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    eight = (DEEP[..., 0] >> 4).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(DEEP[..., 0] << 4).save(tmp_path / f"deep{name}", exif=exif)
        Image.fromarray(eight).save(tmp_path / name, exif=exif)
        assert (pixels(tmp_path / f"deep{name}") == pixels(tmp_path / name)).all()
    tag = {"planarconfig": "contig", "extratags": [(274, 3, 1, orientation, True)]}
    turned = tiff(tmp_path / "b.tif", DEEP << 4, photometric="minisblack", **tag)
    assert (pixels(turned, ValueRule.of(None, [1])) == pixels(tmp_path / "a.tif")).all()
    assert image_size(turned) == image_size(tmp_path / "a.tif")


# --- pages ------------------------------------------------------------------------------------------------------------
def several(path, **options):
    frames = [Image.fromarray(RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp", "a.avif"])
def test_a_file_of_several_pictures_is_not_taken_for_one(tmp_path, name):
    for read in (read_image, read_indices):
        with pytest.raises(UnreadableFile, match=rf"{name} cannot be read: it contains 3 pictures"):
            read(several(tmp_path / name))


def test_previews_and_other_copies_are_no_pages(tmp_path):
    rgb = RANDOM.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(rgb, photometric="rgb")
        file.write(rgb[::2, ::2], photometric="rgb", subfiletype=1)
    assert (pixels(tmp_path / "a.tif") == rgb).all()


def test_a_photograph_of_a_phone_is_its_first_picture(tmp_path):
    path = several(tmp_path / "a.mpo")
    (tmp_path / "a.jpg").write_bytes(path.read_bytes())
    assert picture_facts(path).format == "MPO"
    assert pixels(tmp_path / "a.jpg").shape == (16, 16, 3)


# --- other formats ----------------------------------------------------------------------------------------------------
def test_heic_is_read_or_names_its_package(tmp_path):
    if find_spec("pillow_heif") is not None:
        pytest.skip("pillow-heif is installed")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for read in (read_image, image_size, read_indices):
        with pytest.raises(MissingPackage, match=r"a\.heic: .*pip install 'pe_spatial\[heic\]'"):
            read(tmp_path / "a.heic")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_labels_and_measurements_of_both_byte_orders(tmp_path, order, kind, compression):
    values = RANDOM.integers(0, 9, (5, 7)).astype(kind)
    with tifffile.TiffWriter(tmp_path / "b.tif", byteorder=order) as file:  # with a smaller copy behind it
        file.write(values.astype(order + kind), compression=compression)
        tifffile.imwrite(tmp_path / "a.tif", values.astype(order + kind), byteorder=order, compression=compression)
        file.write(values[::2, ::2].astype(order + kind), subfiletype=1, compression=compression)
    for name in ("a.tif", "b.tif"):
        if kind[0] != "f":
            assert (read_indices(tmp_path / name) == values).all()
        if kind != "u1":
            assert (read_values(tmp_path / name) == values).all()


def test_bands_are_no_indices_and_a_jpeg_holds_none(tmp_path):
    tiff(tmp_path / "a.tif", DEEP[..., :2].astype(np.uint8), photometric="minisblack", planarconfig="separate")
    with pytest.raises(UnreadableFile, match="it is a TIFF of 2 bands, 8 bits each, not indices"):
        read_indices(tmp_path / "a.tif")
    content = io.BytesIO()
    Image.fromarray(DEEP[..., 0].astype(np.uint8)).save(content, format="JPEG")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    with pytest.raises(UnreadableFile, match="it is a JPEG, whose compression changes the values"):
        read_indices(tmp_path / "a.png")


def test_a_tiff_that_decompresses_to_more_than_it_shows_is_refused(tmp_path, monkeypatch):
    path = tiff(tmp_path / "a.tif", DEEP << 4, photometric="minisblack", planarconfig="contig", compression="zlib")
    rule = ValueRule.of(None, [1])
    expected = pixels(path, rule)
    monkeypatch.setattr(rasters, "_MOST_BY_DEFLATE", 10**12)  # as if the memory were small
    assert (pixels(path, rule) == expected).all()
    bomb = zlib.compress(bytes(50_000_000), 9)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        page.tags["StripOffsets"].overwrite([path.stat().st_size])
        page.tags["StripByteCounts"].overwrite([len(bomb)])
    with open(path, "ab") as file:
        file.write(bomb)
    with pytest.raises(UnreadableFile, match="decompresses to more than the 280 bytes of its pixels"):
        read_image(path, rule=rule)


def test_a_compression_of_unknown_size_is_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", DEEP << 4, photometric="minisblack", planarconfig="contig", compression="lzma")
    with pytest.raises(UnreadableFile, match="compressed with LZMA is not supported; compress it with DEFLATE"):
        read_image(path, rule=ValueRule.of(None, [1]))


@pytest.mark.parametrize("bands", [3, 4])
def test_16_bits_of_colors_in_lzw_need_no_package(tmp_path, bands):
    values = DEEP[..., :bands] << 4
    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_LZW]
    cv2.imwrite(str(tmp_path / "a.tif"), values[..., [2, 1, 0, 3][:bands]], lzw)
    assert (pixels(tmp_path / "a.tif") == values[..., :3] >> 8).all()
