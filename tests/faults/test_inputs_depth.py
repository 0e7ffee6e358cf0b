"""Depth maps as exporters write them: read in meters, or named with the unit, the sign or the mark that is wrong."""

import numpy as np
import pytest
import tifffile
from PIL import Image

import pe_spatial.common.picture_files as opening
import pe_spatial.data  # noqa: F401 - registers the loaders
from pe_spatial.common.errors import AnnotationError, OptionError, UnreadableFile
from pe_spatial.depth.datasets import DepthFolder
from pe_spatial.depth.loading import LoadDepthMap, read_depth
from pe_spatial.doctor import ExaminationOptions, examine

SIZE = (12, 16)
METERS = np.linspace(1, 9, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
STEPS = [{"type": "LoadImage"}, {"type": "LoadDepthMap"}, {"type": "PackSample"}]


def pfm(path, values, order="<"):
    head = f"Pf\n{values.shape[1]} {values.shape[0]}\n{'-' if order == '<' else ''}1.0\n"
    path.write_bytes(head.encode() + values[::-1].astype(f"{order}f4").tobytes())


def save(path, meters=METERS, scale=0.001, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray((meters / scale).round().astype(np.uint16)).save(path)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **(options or {"depth": meters}))
    elif path.suffix == ".pfm":
        pfm(path, meters)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, meters, **options)
    else:
        np.save(path, meters)
    return path


def folder(root, maps, suffix=".npy", name="{}", **options):
    for number, meters in enumerate(maps):
        image = root / f"images/{number:03}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (*meters.shape[-2:], 3), np.uint8)
        Image.fromarray(noise).save(image)
        save(root / f"depth/{name.format(f'{number:03}')}{suffix}", meters)
    return {
        "type": "DepthFolder",
        "data_root": str(root),
        "data_prefix": {"img_path": "images", "depth_path": "depth"},
        "depth_scale": 0.001,
        "depth_range": [0.1, 20.0],
        "pipeline": STEPS,
        **options,
    }


def dataset(config):
    return DepthFolder(**{key: value for key, value in config.items() if key != "type"})


def report(config):
    found = examine({"train_dataloader": {"dataset": config}}, ExaminationOptions())[0]
    return "\n".join([*found.findings.lines(), *(line for each in found.histograms for line in each.lines())])


# --- formats ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".pfm", ".tif", ".tiff"])
def test_every_format_is_found_and_read_in_meters(tmp_path, suffix):
    depth = dataset(folder(tmp_path, [METERS], suffix))[0]["data_samples"].gt_depth.data[0]
    assert np.abs(depth.numpy() - METERS).max() <= 5e-4


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_integers_have_a_scale_and_of_floats_meters(tmp_path, kind, order):
    is_float = np.dtype(kind).kind == "f"
    path = save(tmp_path / "a.tif", (METERS if is_float else (METERS * 1000).round()).astype(kind), byteorder=order)
    assert np.abs(read_depth(path, 0.001) - METERS).max() <= 5e-4
    if not is_float:
        with pytest.raises(AnnotationError, match="a TIFF of integers needs a scale in"):
            read_depth(path, None)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_begins_at_the_bottom_in_both_byte_orders(tmp_path, order):
    pfm(tmp_path / "a.pfm", METERS, order)
    assert (read_depth(tmp_path / "a.pfm", None) == METERS).all()


@pytest.mark.parametrize("shape", [(1, *SIZE), (*SIZE, 1), (1, *SIZE, 1), (1, 1, *SIZE)])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_axes_of_one_are_no_axes(tmp_path, shape, suffix):
    assert (read_depth(save(tmp_path / f"a{suffix}", METERS.reshape(shape)), None) == METERS).all()


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f8", ">f4", "<f2", ">u2"])
def test_arrays_of_every_layout(tmp_path, layout, kind):
    values = np.asarray(METERS, dtype=kind, order=layout)
    assert (read_depth(save(tmp_path / "a.npy", values), None) == values.astype(np.float32)).all()


def test_the_depth_among_other_arrays(tmp_path):
    other = np.zeros((3, 3))
    assert (read_depth(save(tmp_path / "a.npz", pose=other, depth=METERS), None) == METERS).all()
    for names in (("pose", "x"), ("arr_0", "arr_1")):
        path = save(tmp_path / "b.npz", **dict(zip(names, (other, METERS), strict=True)))
        with pytest.raises(UnreadableFile, match=rf"none of its arrays {names[0]}.npy, {names[1]}.npy is called depth"):
            read_depth(path, None)


def test_a_pfm_of_colors_says_so(tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"PF\n16 12\n-1.0\n" + bytes(3 * 4 * 16 * 12))
    with pytest.raises(UnreadableFile, match=r"a\.pfm cannot be read: .*a PFM with three bands"):
        read_depth(tmp_path / "a.pfm", None)


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"x" * 100])
def test_a_damaged_npz_is_named(tmp_path, damage):
    (tmp_path / "a.npz").write_bytes(damage)
    with pytest.raises(UnreadableFile, match=r"a\.npz cannot be read"):
        read_depth(tmp_path / "a.npz", None)


def test_an_array_that_is_shorter_than_it_says(tmp_path):
    path = save(tmp_path / "a.npy")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnreadableFile, match="has 768 bytes, but the file has 764"):
        read_depth(path, None)


def test_several_pages_or_bands_are_no_depth_map(tmp_path):
    for options, says in ({"photometric": "minisblack"}, "2 pictures"), ({"planarconfig": "separate"}, "several bands"):
        path = save(tmp_path / "a.tif", np.stack([METERS, METERS]), **options)
        with pytest.raises(UnreadableFile, match=says):
            read_depth(path, None)


# --- marks of the sky -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mark", [1e10, 65504, 65535, 1e9, 3.4e38, np.inf])
@pytest.mark.parametrize("share", [0.1, 0.7])
def test_the_sky_is_not_measured(tmp_path, mark, share):
    meters = METERS.copy()
    sky = int(share * SIZE[0])
    meters[:sky] = mark
    found = dataset(folder(tmp_path, [meters]))[0]["data_samples"].gt_depth.data[0].numpy()
    assert (found[:sky] == 0).all() and (found[sky:] == METERS[sky:]).all()


def test_the_largest_value_of_16_bits_is_a_mark_where_many_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "_said", set())
    meters = METERS.copy()
    meters[:4] = 65.535
    with pytest.warns(UserWarning, match="65535"):
        found = read_depth(save(tmp_path / "a.png", meters), 0.001)
    assert np.isinf(found[:4]).all() and np.isfinite(found[4:]).all()


def test_another_mark_is_proposed_and_then_taken(tmp_path):
    meters = METERS.copy()
    meters[:8] = 1000
    path = save(tmp_path / "a.npy", meters)
    with pytest.raises(AnnotationError, match=r"67% .* exactly 1000 m, .* median of 7.*the sky; set farthest=1000"):
        LoadDepthMap().read(path, None)
    with pytest.raises(AnnotationError) as caught:
        LoadDepthMap().read(path, None)
    assert "0.001" not in str(caught.value)
    assert (LoadDepthMap(farthest=1000).read(path, None)[8:] == METERS[8:]).all()
    with pytest.raises(OptionError, match="farthest -1 must be above 0"):
        LoadDepthMap(farthest=-1)


# --- what is wrong, and what is said ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("meters", "says"),
    [
        (-METERS, "all its 192 values other than 0 are negative.*sign is wrong"),
        (METERS * 0, "no pixel has a measurement.*192 pixels are 0"),
        (METERS * np.nan, "192 pixels are NaN"),
        (METERS * 0 + 1e10, "192 pixels are infinite or too far"),
        (METERS * 1000, "looks like millimeters"),
        (METERS * 100, r"0\.01 if they are centimeters, with a median of 5 m"),
        (METERS / 1000, "looks like meters"),
        (METERS * 40, "no pixel .* is inside depth_range 0.1 to 20 m: its measurements reach from 40 to 360 m"),
        (-np.maximum(METERS - 3, 0), "values other than 0 are negative.*the sign is wrong"),
    ],
    ids=["negative", "zero", "nan", "far", "millimeters", "centimeters", "kilometers", "inches", "negative and 0"],
)
def test_a_wrong_folder_says_what_its_values_are(tmp_path, meters, says):
    config = folder(tmp_path, [meters.astype(np.float32)] * 3)
    with pytest.raises((OptionError, AnnotationError), match=says) as caught:
        dataset(config)
    assert "inf to 0" not in str(caught.value)
    assert "the dataset cannot be loaded" in report(config)


@pytest.mark.parametrize("wrong", [np.nan, -1.0, -np.inf])
def test_the_doctor_lists_all_when_every_map_is_refused(tmp_path, wrong):
    meters = METERS.copy()
    meters[0] = wrong
    text = report(folder(tmp_path, [meters] * 3))
    assert ("samples that the loaders refuse (3)" in text) == (wrong != -np.inf)
    assert (f"000.npy: {16 * int(np.isnan(wrong))} pixels are NaN" in text) == (wrong != -np.inf)


@pytest.mark.parametrize(("scale", "is_said"), [(0.001, False), (0.003, True), (0.005, True)])
def test_a_unit_that_puts_many_pixels_outside_the_range_is_doubted(tmp_path, scale, is_said):
    text = report(folder(tmp_path, [METERS] * 2, ".png", depth_scale=scale))
    assert ("many pixels lie outside depth_range; the unit may be wrong" in text) == is_said


def test_affixes_of_depth_maps(tmp_path):
    with pytest.raises(OptionError, match="set label_stem_end: _depth"):
        dataset(folder(tmp_path, [METERS] * 2, name="{}_depth"))
    assert len(dataset(folder(tmp_path, [METERS] * 2, name="{}_depth", label_stem_end="_depth"))) == 2


@pytest.mark.parametrize("suffix", [".jpg", ".mat", ".h5", ".bmp"])
def test_depth_of_another_suffix_is_named(tmp_path, suffix):
    config = folder(tmp_path, [METERS])
    (tmp_path / "depth/000.npy").rename(tmp_path / f"depth/000{suffix}")
    with pytest.raises(OptionError, match=rf"000\{suffix} lies there, and depth maps are read from \.png, \.npy"):
        dataset(config)
