import numpy as np
import pytest
from PIL import Image

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.depth.datasets import DepthFolder, KittiDepth, NyuDepth

PIPELINE = [{"type": "LoadImage"}, {"type": "LoadDepthMap"}, {"type": "PackSample"}]


def save_pair(image, depth, value=2.0, size=(6, 8), scale=0.001):
    for path in (image, depth):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 100, np.uint8)).save(image)
    if depth.suffix == ".npy":
        np.save(depth, np.full(size, value, np.float32))
    else:
        Image.fromarray(np.full(size, round(value / scale), np.uint16)).save(depth)


def folder(root, **options):
    return DepthFolder(
        **{
            "data_root": str(root),
            "data_prefix": {"img_path": "images", "depth_path": "depth"},
            "depth_scale": 0.001,
            "depth_range": [0.1, 10],
            "pipeline": PIPELINE,
            **options,
        }
    )


def depth_of(dataset, index):
    return dataset[index]["data_samples"].gt_depth.data


def test_folder_pairs_by_name_over_formats_and_subfolders(tmp_path):
    save_pair(tmp_path / "images/b/10.jpg", tmp_path / "depth/b/10.npy", 3.0)
    save_pair(tmp_path / "images/b/9.png", tmp_path / "depth/b/9.png", 2.0)
    save_pair(tmp_path / "images/a.jpg", tmp_path / "depth/a.png", 1.0)
    dataset = folder(tmp_path)
    names = [dataset.get_data_info(index)["img_path"].rpartition("images/")[2] for index in range(3)]
    assert names == ["a.jpg", "b/9.png", "b/10.jpg"]
    assert [float(depth_of(dataset, index).mean()) for index in range(3)] == pytest.approx([1, 2, 3])


def test_folder_reports_every_name_without_its_other_half(tmp_path):
    save_pair(tmp_path / "images/a.jpg", tmp_path / "depth/a.png")
    for name in ("b", "c", "d", "e"):
        save_pair(tmp_path / f"images/{name}.jpg", tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"no depth map for 4 of 5 names \(b, c, d, …\)"):
        folder(tmp_path)
    for name in ("b", "c", "d", "e"):
        (tmp_path / f"images/{name}.jpg").unlink()
    save_pair(tmp_path / "other.jpg", tmp_path / "depth/z.npy")
    with pytest.raises(ValueError, match=r"no image for 1 of 2 names \(z\)"):
        folder(tmp_path)


def test_folder_with_two_depth_maps_of_one_name(tmp_path):
    save_pair(tmp_path / "images/a.jpg", tmp_path / "depth/a.png")
    save_pair(tmp_path / "images/a.jpg", tmp_path / "depth/a.npy")
    with pytest.raises(ValueError, match="have the same name; keep one of them"):
        folder(tmp_path)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images \(data_prefix.img_path\) is not a folder"):
        folder(tmp_path)
    with pytest.raises(ValueError, match="lacks img_path"):
        folder(tmp_path, data_prefix={"img": "images"})


def nyu(root):
    save_pair(root / "train/kitchen/rgb_1.jpg", root / "train/kitchen/sync_depth_1.png", 2.5)
    save_pair(root / "train/kitchen/rgb_2.jpg", root / "train/kitchen/sync_depth_2.png", 4.0)
    lines = [f"/kitchen/rgb_{n}.jpg /kitchen/sync_depth_{n}.png 518.8579" for n in (1, 2)]
    (root / "nyu_train.txt").write_text("\n".join([*lines, ""]))
    return {
        "data_root": str(root),
        "ann_file": "nyu_train.txt",
        "data_prefix": {"img_path": "train", "depth_path": "train"},
        "pipeline": PIPELINE,
    }


def test_nyu_reads_the_split_file_in_millimeters(tmp_path):
    dataset = NyuDepth(**nyu(tmp_path), depth_range=[0.001, 10])
    assert [float(depth_of(dataset, index).mean()) for index in range(2)] == pytest.approx([2.5, 4.0])
    assert dataset.metainfo["depth_unit"] == "meters"


def test_a_line_of_another_form_is_named_with_its_number(tmp_path):
    options = nyu(tmp_path)
    (tmp_path / "nyu_train.txt").write_text("/kitchen/rgb_1.jpg /kitchen/sync_depth_1.png 518.8\nalone.jpg\n")
    with pytest.raises(ValueError, match="nyu_train.txt:2: 'alone.jpg' is not"):
        NyuDepth(**options)


def test_kitti_scale_and_pairs_without_depth(tmp_path):
    image, depth = "2011/a/image_02/data/05.png", "a/proj_depth/groundtruth/image_02/05.png"
    save_pair(tmp_path / "input" / image, tmp_path / "gt_depth" / depth, 20.5, scale=1 / 256)
    (tmp_path / "test.txt").write_text(f"{image} {depth} 721.5377\n2011/b/06.png None 721.5377\n")
    dataset = KittiDepth(
        data_root=str(tmp_path),
        ann_file="test.txt",
        data_prefix={"img_path": "input", "depth_path": "gt_depth"},
        depth_range=[0.001, 80],
        pipeline=PIPELINE,
    )
    assert len(dataset) == 1
    assert float(depth_of(dataset, 0).mean()) == pytest.approx(20.5)


# --- the range --------------------------------------------------------------------------------------------------------
def test_a_range_without_any_pixel_of_the_data_set(tmp_path):
    for number, value in enumerate((15.0, 18.0)):
        save_pair(tmp_path / f"images/{number}.jpg", tmp_path / f"depth/{number}.png", value)
    with pytest.raises(ValueError, match=r"\(2 depth maps\).*reach from 15 to 18 m; correct depth_range"):
        folder(tmp_path)
    save_pair(tmp_path / "images/2.jpg", tmp_path / "depth/2.png", 9.0)
    assert len(folder(tmp_path)) == 3


def test_the_wrong_unit_is_found_at_construction(tmp_path):
    save_pair(tmp_path / "images/0.jpg", tmp_path / "depth/0.png", 3.0)
    with pytest.raises(ValueError, match="looks like millimeters"):
        folder(tmp_path, depth_scale=1.0)


def test_an_unreadable_first_map_stops_or_is_skipped(tmp_path):
    for number in range(2):
        save_pair(tmp_path / f"images/{number}.jpg", tmp_path / f"depth/{number}.png", 3.0)
    (tmp_path / "depth/0.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableFile, match="0.png cannot be read"):
        folder(tmp_path)
    assert len(folder(tmp_path, unreadable="skip")) == 2


@pytest.mark.parametrize("options", [{"depth_scale": 0.0}, {"depth_range": [0, 10]}, {"depth_range": [10, 1]}])
def test_options_are_checked(tmp_path, options):
    with pytest.raises(ValueError, match=r"depth_scale|depth_range"):
        folder(tmp_path, **options)
