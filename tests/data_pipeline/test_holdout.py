"""A validation part that is held out: disjoint, complete, reproducible, and without copies of what is trained on."""

import json

import numpy as np
import pytest
from PIL import Image

from pe_spatial.common.errors import UserError
from pe_spatial.data.holdout import Holdout, equal_files
from pe_spatial.detection import CocoInstances
from pe_spatial.segmentation import SegmentationFolder


def write(folder, contents):
    """A file for each text, named by its number."""
    paths = [folder / f"{number}.bin" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def parts(paths, **settings):
    return [Holdout(part, **settings).rows(paths) for part in ("train", "val")]


@pytest.mark.parametrize(("count", "share"), [(2, 0.2), (3, 0.9), (10, 0.2), (50, 0.33)])
def test_the_parts_are_disjoint_and_complete(tmp_path, count, share):
    paths = write(tmp_path, [bytes([number]) for number in range(count)])
    train, val = parts(paths, share=share)
    assert sorted([*train, *val]) == list(range(count))
    assert len(val) == min(max(round(share * count), 1), count - 1)
    assert parts(paths, share=share) == [train, val]


def test_another_seed_holds_out_others(tmp_path):
    paths = write(tmp_path, [bytes([number]) for number in range(40)])
    assert len({tuple(parts(paths, seed=seed)[1]) for seed in range(5)}) == 5


def test_equal_files_stay_on_one_side(tmp_path):
    contents = [bytes([number // 4]) for number in range(40)]
    paths = write(tmp_path, contents)
    assert [len(group) for group in equal_files(paths)] == [4] * 10
    for seed in range(10):
        train, val = parts(paths, seed=seed)
        assert val and not {contents[row] for row in train} & {contents[row] for row in val}


def test_files_that_are_missing_or_listed_twice_count_by_their_path(tmp_path):
    paths = [*write(tmp_path, [b"a", b"bb"]), str(tmp_path / "gone"), str(tmp_path / "lost")]
    assert equal_files([*paths, paths[0], paths[2]]) == [[0, 4], [1], [2, 5], [3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "test"}, "part 'test' is not one of train, val"),
        ({"part": "val", "share": 0}, "share 0 is not between 0 and 1"),
        ({"part": "val", "share": 1.0}, "share 1.0 is not between 0 and 1"),
        ({"part": "val", "seed": -1}, "seed -1 is negative"),
    ],
)
def test_what_is_no_part_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Holdout(**settings)


@pytest.mark.parametrize("contents", [[b"a"], [b"a", b"a", b"a"]])
def test_nothing_is_held_out_of_one_picture(tmp_path, contents):
    with pytest.raises(UserError, match="nothing can be held out of"):
        parts(write(tmp_path, contents))


# --- of datasets ------------------------------------------------------------------------------------------------------
@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures, of which the first two are equal."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        pixels = np.full((8, 8, 3), 10 * max(number, 1), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02}.png")
    return tmp_path


def test_instances_are_counted_by_part(pictures):
    """Counts of a part are those of its own records, whether or not empty images stay."""
    content = {
        "images": [{"id": n, "file_name": f"{n:02}.png", "height": 8, "width": 8} for n in range(12)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 1 + n % 2, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
            for n in range(0, 12, 3)
        ],
    }
    (pictures / "a.json").write_text(json.dumps(content))

    def built(part, **options):
        folders = {"data_root": str(pictures), "ann_file": "a.json", "data_prefix": {"img_path": "images"}}
        return CocoInstances(**folders, **options, **({"holdout": {"part": part, "share": 0.5}} if part else {}))

    whole = built(None)
    train, val = built("train"), built("val")
    assert sorted(train.image_paths() + val.image_paths()) == whole.image_paths()
    for dataset in (train, val):
        labels = [item["label"] for n in range(len(dataset)) for item in dataset.get_data_info(n)["instances"]]
        assert list(dataset.class_counts().values()) == [labels.count(0), labels.count(1)]
    with_objects = built("train", filter_cfg=None, keep_empty=False)
    assert set(with_objects.image_paths()) <= set(train.image_paths())
    assert len({whole.fingerprint(), train.fingerprint(), val.fingerprint()}) == 3
    assert built("val").fingerprint() == val.fingerprint()


def test_label_maps_are_held_out_too(pictures):
    (pictures / "labels").mkdir()
    for path in (pictures / "images").iterdir():
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "labels" / path.name)
    (pictures / "data.yaml").write_text("classes: [a, b]\nimages: {all: images}\nlabels: {all: labels}\n")
    datasets = [
        SegmentationFolder(
            ann_file="data.yaml", split="all", data_root=str(pictures), holdout={"part": part, "share": 0.25}
        )
        for part in ("train", "val")
    ]
    train, val = (dataset.image_paths() for dataset in datasets)
    assert len(train) + len(val) == 12 and not set(train) & set(val)
    first_two = {str(pictures / "images" / f"{n:02}.png") for n in (0, 1)}
    assert first_two <= set(train) or first_two <= set(val)
