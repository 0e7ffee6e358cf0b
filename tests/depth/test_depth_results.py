import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image

from pe_spatial.common.names import output_stems
from pe_spatial.common.records import Records
from pe_spatial.depth.results import DepthWriter
from pe_spatial.visualization.depth import depth_picture, round_values


def prediction(values, metric=True, depth_range=(0.5, 12.0)):
    sample = BaseDataElement(metainfo={"depth_is_metric": metric, "depth_range": depth_range})
    sample.set_field(PixelData(data=torch.as_tensor(values, dtype=torch.float32)[None]), "pred_depth", dtype=PixelData)
    return sample


def ramp(height=40, width=60, near=1.0, far=9.0):
    return np.linspace(near, far, height * width, dtype=np.float32).reshape(height, width)


IMAGE = torch.zeros(3, 40, 60, dtype=torch.uint8)


def writer_in(folder, names=("a", "v.mp4"), npy=False, color_range=None, draw=True):
    options = Namespace(npy=npy, depth_colors=color_range, no_pictures=not draw)
    return DepthWriter(Records(folder, {}), output_stems(names), SimpleNamespace(metainfo={}), options)


def listing(writer):
    return {entry["file_name"]: entry for entry in json.loads(writer.close().read_text())["files"]}


def test_metric_files_hold_millimeters_and_meters(tmp_path):
    writer = writer_in(tmp_path, npy=True)
    picture = writer.write("a", IMAGE, prediction(ramp()))
    with Image.open(tmp_path / "depth/a_depth_mm.png") as image:
        assert image.mode.startswith("I") and image.text == {"depth": "metric", "unit": "millimeters"}
        assert np.abs(np.asarray(image).astype(float) / 1000 - ramp()).max() <= 0.00051
    assert np.array_equal(np.load(tmp_path / "depth/a_depth_m.npy"), ramp())
    entry = listing(writer)["a"]
    assert (entry["kind"], entry["unit"], entry["png"], entry["npy"]) == (
        "metric",
        "meters",
        "depth/a_depth_mm.png",
        "depth/a_depth_m.npy",
    )
    assert (entry["min"], entry["max"]) == (1.0, 9.0)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def test_metric_png_is_read_back_by_the_data_loader(tmp_path):
    from pe_spatial.depth.loading import read_depth

    writer_in(tmp_path).write("a", IMAGE, prediction(ramp()))
    assert np.abs(read_depth(tmp_path / "depth/a_depth_mm.png", 0.001) - ramp()).max() <= 0.00051


def test_relative_files_claim_no_unit(tmp_path):
    writer = writer_in(tmp_path, npy=True)
    writer.write("a", IMAGE, prediction(ramp(), metric=False))
    with Image.open(tmp_path / "depth/a_depth_relative.png") as image:
        assert image.text["depth"] == "relative" and "meter" not in image.text["unit"]
        assert np.abs(np.asarray(image) / (65535 / 12.0) - ramp()).max() < 1e-3
    assert (tmp_path / "depth/a_depth_relative.npy").is_file()
    assert not list(tmp_path.rglob("*_mm*")) and not list(tmp_path.rglob("*_m.npy"))
    entry = listing(writer)["a"]
    assert (entry["kind"], entry["unit"]) == ("relative", "none")


def test_the_end_of_16_bits_is_counted_and_the_npy_is_whole(tmp_path):
    writer = writer_in(tmp_path, npy=True)
    writer.write("a", IMAGE, prediction([[10.0, 65.535], [66.0, 80.0]], depth_range=(0.5, 80)))
    with Image.open(tmp_path / "depth/a_depth_mm.png") as image:
        assert np.asarray(image).tolist() == [[10000, 65535], [65535, 65535]]
    assert np.load(tmp_path / "depth/a_depth_m.npy").max() == 80
    assert listing(writer)["a"]["saturated_pixels"] == 2  # 65.535 itself fits


def test_frames_of_a_video_share_one_color_range(tmp_path):
    writer = writer_in(tmp_path)
    first = writer.write("v.mp4", IMAGE, prediction(ramp(near=1, far=4)), frame=0)
    second = writer.write("v.mp4", IMAGE, prediction(ramp(near=2, far=11)), frame=1)
    width = first.shape[1] - 60 * 12
    assert np.array_equal(first[:, -width:], second[:, -width:])  # the legend
    writer.finish_video("v.mp4", 2)
    entries = json.loads(writer.close().read_text())["files"]
    assert [entry["frame"] for entry in entries] == [0, 1]
    assert {tuple(entry["color_range"]) for entry in entries} == {(0.5, 12.0)}
    assert len({entry["png"] for entry in entries}) == 2


def test_single_images_use_their_own_range_unless_told(tmp_path):
    own, fixed = writer_in(tmp_path / "own"), writer_in(tmp_path / "fixed", color_range=(2, 5))
    for writer in (own, fixed):
        writer.write("a", IMAGE, prediction(ramp()))
    near, far = listing(own)["a"]["color_range"]
    assert [near, far] == pytest.approx(np.quantile(ramp(), (0.02, 0.98), method="nearest"))
    assert listing(fixed)["a"]["color_range"] == [2, 5]


def test_files_of_one_name_and_different_suffix_or_folder_are_all_kept(tmp_path):
    names = ["a.jpg", "a.png", "b/a.jpg", "v.1.jpg", "v.2.jpg"]
    writer = writer_in(tmp_path, names)
    for name in names:
        writer.write(name, IMAGE, prediction(ramp()))
    written = [entry["png"] for entry in listing(writer).values()]
    assert len(set(written)) == len(names) and all((tmp_path / path).is_file() for path in written)


def test_constant_depth_can_be_drawn(tmp_path):
    assert writer_in(tmp_path).write("a", IMAGE, prediction(np.full((40, 60), 3.0))).shape[2] == 3


def test_picture_is_the_colors_beside_the_legend():
    from pe_spatial.visualization import colorize_depth

    depth = torch.from_numpy(ramp())[None]
    picture = depth_picture(depth, 1, 9, is_metric=True)
    enlarged = colorize_depth(depth, 1, 9).repeat_interleave(12, -2).repeat_interleave(12, -1)
    assert torch.equal(picture[:, :, : 60 * 12], enlarged)
    assert not torch.equal(
        depth_picture(depth, 1, 9, is_metric=True)[:, :80, 60 * 12 :][..., :60],
        depth_picture(depth, 1, 9, is_metric=False)[:, :80, 60 * 12 :][..., :60],
    )


@pytest.mark.parametrize(
    ("near", "far", "expected"),
    [(0.5, 12, [2, 4, 6, 8, 10, 12]), (0, 10, [0, 2, 4, 6, 8, 10]), (1, 1.02, [1.0, 1.005, 1.01, 1.015, 1.02])],
)
def test_ticks_are_round_numbers_in_the_range(near, far, expected):
    assert round_values(near, far) == pytest.approx(expected)


@pytest.mark.parametrize("near", [0.001, 0.5, 3.7, 20])
@pytest.mark.parametrize("span", [1e-3, 0.7, 13, 800])
def test_there_are_always_a_few_ticks(near, span):
    values = round_values(near, near + span)
    assert 1 <= len(values) <= 9 and near <= values[0] and values[-1] <= near + span * (1 + 1e-6)
