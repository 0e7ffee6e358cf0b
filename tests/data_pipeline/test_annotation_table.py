"""A table holds what its file does, in memory as in the cache, and a cache that is not its own is made anew."""

import json
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import CocoTable, cache
from pe_spatial.data.annotations.columns import ColumnWriter, DamagedTable, open_columns


def random_content(seed, images=7, annotations=40):
    rng = np.random.default_rng(seed)
    content = {
        "images": [
            {"id": int(number), "file_name": f"ü{number}.jpg", "height": 60, "width": 80}
            for number in rng.permutation(99)[:images]
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in (9, -2, 5)],
        "annotations": [],
    }
    for number in range(annotations):
        x, y, width, height = (float(value) for value in rng.integers(1, 20, 4))
        polygon = [x, y, x + width, y, x + width, y + height]
        masks = [None, [polygon], [polygon, polygon], [[1.0, 2.0]], {"size": [60, 80], "counts": [100, 4700]}]
        annotation = {
            "id": number,
            "image_id": content["images"][rng.integers(images - 1)]["id"],
            "category_id": int(rng.choice([9, -2, 5])),
            "bbox": [x, y, width, height],
            "iscrowd": int(rng.random() < 0.2),
            "segmentation": masks[rng.integers(5)],
        }
        content["annotations"].append(annotation | ({"area": 3.5} if number % 2 else {}))
    return content


def write(folder, content, name="instances.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    """All files are large enough to be cached; returns the folder."""
    monkeypatch.setenv("PE_SPATIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SMALLEST", 0)
    return tmp_path / "cache" / "annotations"


@pytest.mark.parametrize("smallest", [0, 1 << 30])
@pytest.mark.parametrize("seed", range(4))
def test_the_truth_is_that_of_the_file(tmp_path, monkeypatch, seed, smallest):
    monkeypatch.setattr(cache, "SMALLEST", smallest)
    content = random_content(seed)
    table = CocoTable(write(tmp_path, content))
    truth = table.truth()
    assert truth["images"] == content["images"]
    assert truth["categories"] == sorted(content["categories"], key=lambda category: category["id"])
    for number, (found, given) in enumerate(zip(truth["annotations"], content["annotations"], strict=True), start=1):
        mask = given.pop("segmentation")
        x, y, width, height = given["bbox"]
        assert found.pop("segmentation", None) == (None if mask == [[1.0, 2.0]] else mask)
        assert found == {"area": width * height, **given, "id": number}
    for row, image in enumerate(content["images"]):
        expected = [n for n, a in enumerate(content["annotations"]) if a["image_id"] == image["id"]]
        assert table.rows_of(row).tolist() == expected


def test_first_objects_are_one_for_each_image_and_class(tmp_path, monkeypatch):
    monkeypatch.setattr("pe_spatial.data.annotations.coco_columns._BLOCK", 5)
    content = random_content(5)
    columns = CocoTable(write(tmp_path, content)).columns
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    assert columns["is_first"].sum() == len({(a["image_id"], a["category_id"]) for a in objects})
    assert not columns["is_first"][columns["crowd"]].any()


def test_a_file_without_annotations_or_images(tmp_path):
    for content in ({"images": [], "annotations": [], "categories": []}, random_content(0) | {"annotations": []}):
        table = CocoTable(write(tmp_path, content))
        assert table.truth()["annotations"] == []
        assert [table.rows_of(row).tolist() for row in range(len(content["images"]))] == [[]] * len(content["images"])


def test_the_second_start_reads_the_table_and_not_the_file(tmp_path, cached, monkeypatch):
    path = write(tmp_path, random_content(0))
    first = CocoTable(path).truth()
    monkeypatch.setattr("pe_spatial.data.annotations.coco_columns.gather", None)
    assert CocoTable(path).truth() == first
    assert len(list(cached.glob("*-*"))) == 1


def test_a_changed_file_is_read_again_and_its_old_table_goes(tmp_path, cached):
    path = write(tmp_path, random_content(0))
    old = CocoTable(path)
    write(tmp_path, random_content(1, images=5))
    assert len(CocoTable(path).columns["image_id"]) == 5
    assert len(old.columns["image_id"]) == 7  # who has it mapped keeps it
    assert len(list(cached.glob("*-*"))) == 1


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def garble(file):
    file.write_text("[1, 2")


@pytest.mark.parametrize("name", ["table.json", "box.bin", "coordinates.bin", "image_id.bin"])
@pytest.mark.parametrize("damage", [cut, flip, garble, lambda file: file.unlink()])
def test_a_damaged_table_is_made_anew(tmp_path, cached, name, damage):
    path = write(tmp_path, random_content(0))
    expected = CocoTable(path).truth()
    (file,) = cached.glob(f"*/{name}")
    before = file.read_bytes()
    damage(file)
    assert CocoTable(path).truth() == expected
    assert file.read_bytes() == before


def test_what_an_interrupted_process_left_is_no_table(tmp_path, cached, monkeypatch):
    path = write(tmp_path, random_content(0))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ColumnWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            CocoTable(path)
    assert not list(cached.glob("*-*"))
    family = next(cached.glob(".*.lock")).name.split(".")[1]
    (cached / f"{family}-.building-killed").mkdir()  # by SIGKILL
    assert CocoTable(path).truth()
    assert len(list(cached.glob("*-*"))) == 1


def test_a_faulty_file_leaves_nothing(tmp_path, cached):
    content = random_content(0)
    content["annotations"][30]["bbox"] = None
    with pytest.raises(AnnotationError, match="annotation 30"):
        CocoTable(write(tmp_path, content))
    assert not list(cached.glob("*-*"))


def test_where_nothing_can_be_kept_the_table_stays_in_memory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("PE_SPATIAL_CACHE", str(tmp_path / "file"))
    path = write(tmp_path, random_content(0))
    with pytest.warns(UserWarning, match="cannot be kept .*PE_SPATIAL_CACHE names another"):
        assert CocoTable(path).truth()["images"] == random_content(0)["images"]


def test_a_full_disk_is_no_end_either(tmp_path, small_files, cached):
    path = write(tmp_path, random_content(0, annotations=4000))
    with small_files(20_000), pytest.warns(UserWarning, match="cannot be kept"):
        assert len(CocoTable(path).columns["id"]) == 4000
    assert not list(cached.glob("*-*"))


def count_images(path):
    return len(CocoTable(path).columns["image_id"])


def test_processes_that_start_together_make_one_table(tmp_path, cached):
    path = write(tmp_path, random_content(0))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(count_images, [path] * 8) == [7] * 8
    assert len(list(cached.glob("*-*"))) == 1


def test_a_mapped_table_travels_by_its_folder(tmp_path):
    table = CocoTable(write(tmp_path, random_content(0, annotations=4000)))
    sent = pickle.dumps(table)
    assert len(sent) < 2000
    assert pickle.loads(sent).truth() == table.truth()  # noqa: S301 - it was made here


def test_rows_of_any_shape_come_back(tmp_path):
    (tmp_path / "columns").mkdir()
    for folder in (None, tmp_path / "columns"):
        writer = ColumnWriter(folder)
        writer.append("pairs", [[1, 2]], "i4", width=2)
        writer.append("pairs", np.arange(4).reshape(2, 2), "i4", width=2)
        writer.append("empty", [], "f8")
        writer.append("dropped", [1.0], "f8")
        writer.drop("dropped")
        columns = writer.finish({"a": 1})
        assert columns["pairs"].tolist() == [[1, 2], [0, 1], [2, 3]]
        assert list(columns) == ["pairs", "empty"]
    assert open_columns(tmp_path / "columns").header == {"a": 1}
    with pytest.raises(DamagedTable):
        open_columns(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][3].update(segmentation=[[0, 0, 5, 0, 1e6, 9]]), "annotation 3 has polygons that"),
        (lambda c: c["annotations"][3].update(segmentation=[[0, 0, 5, 0, -200, 9]]), "annotation 3 has polygons that"),
        (
            lambda c: c["annotations"][3].update(segmentation={"size": [80, 60], "counts": [4800]}),
            "annotation 3 has an RLE for an image of 60, 80, but its image .* width and height 80, 60",
        ),
        (lambda c: c["annotations"][3].update(image_id=1000), "1 of 40 annotations have a image_id"),
        (lambda c: c["annotations"][3].update(category_id=1), "category_id that is not in the file"),
        (lambda c: c["images"][3].update(id=c["images"][0]["id"]), "image id .* is used twice"),
        (lambda c: c["categories"][1].update(name="class 9"), "have the name 'class 9'"),
        (lambda c: c["categories"][1].update(id=9), "have the id 9"),
        (lambda c: c.update(categories=[]), "known ids: none"),
    ],
)
def test_contradictions_are_named(tmp_path, change, message):
    content = random_content(0)
    change(content)
    with warnings.catch_warnings(), pytest.raises(AnnotationError, match=message):
        warnings.simplefilter("error")
        CocoTable(write(tmp_path, content))
