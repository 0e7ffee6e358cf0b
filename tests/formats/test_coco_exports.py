"""COCO files of several tools: where their pictures lie, and entries that are converted or refused."""

import json
import math
import shutil

import pytest
from format_scenes import TRUTH, copy_of, objects_of

from pe_spatial.common.errors import AnnotationError, UserError
from pe_spatial.data.annotations.entries import MARKS
from pe_spatial.data.formats import read_instances


@pytest.fixture
def edited(tmp_path):
    """Reads the dataset `coco` with its file edited."""

    def make(edit):
        folder = copy_of("coco", tmp_path)
        content = json.loads((folder / "instances.json").read_text())
        edit(content)
        (folder / "instances.json").write_text(json.dumps(content))
        return read_instances(folder)

    return make


def first(key, **entries):
    return lambda content: content[key][0].update(entries)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (first("images", file_name=None), "image 1 has no file_name"),
        (first("images", file_name="../../a.png"), "is outside the dataset"),
        (first("images", height=None), "image 1 has no height"),
        (first("images", width=0), "image 1: width is 0, but must be 1 to"),
        (first("images", width="wide"), "image 1: width is 'wide', but must be an integer"),
        (first("images", id=2), "image id 2 is used twice"),
        (first("images", id=True), "image True: id is True, but must be an integer"),
        (first("categories", name=None), "category 1: name is None, but must be text"),
        (first("categories", name="dog"), "categories 1 and 2 have the name 'dog'"),
        (first("categories", id=2), "categories 2 twice have the id 2"),
        (first("annotations", image_id=7), "a image_id that is not in the file, for example 7 in number 1 of the list"),
        (
            first("annotations", category_id="cat"),
            r"annotation 1 \(image 1\): category_id is 'cat', but must be an integer",
        ),
        (
            first("annotations", bbox=[1, 2, 3]),
            r"annotation 1 \(image 1\): bbox is \[1, 2, 3\], but must be four finite numbers",
        ),
        (first("annotations", bbox=[1, 2, 3, math.inf]), "bbox is .*finite"),
        (first("annotations", iscrowd="maybe"), "iscrowd is 'maybe'"),
        (first("annotations", segmentation=[[1, 2, 3, 4, 5]]), "a polygon with 5 coordinates"),
        (first("annotations", segmentation=[[1, 2, 900, 4, 5, 6]]), "polygons that reach to"),
        (first("annotations", segmentation={"size": [9, 9], "counts": [81]}), "an RLE for an image of 9, 9"),
        (
            first("annotations", segmentation=[[1, 2, 3, 4, 5, math.nan]]),
            "has the coordinate nan, but must be a finite number",
        ),
        (first("annotations", segmentation=[{"size": [1, 1]}]), "segmentation has the coordinate"),
        (lambda content: content.update(annotations=None), "no list of annotations"),
        (
            lambda content: content["annotations"].append(None),
            "annotation number 4 of the list: None, but must be an object",
        ),
    ],
)
def test_faults_are_named(edited, edit, message):
    with pytest.raises(UserError, match=message) as error:
        edited(edit)
    assert "\n" not in str(error.value) and "instances.json" in str(error.value)


@pytest.mark.parametrize(
    "edit",
    [
        first("annotations", segmentation=[]),
        first("annotations", segmentation=[[]]),
        first("annotations", segmentation=None),
        first("annotations", iscrowd="0", area="96", id="1"),
        first("annotations", iscrowd=None, segmentation=[4, 6, 12, 6, 12, 18]),
        first("images", date_captured=0, license=None, id=1.0),
        first("images", file_name="C:\\pets\\a.png"),
        first("images", file_name="/home/me/pets/a.png"),
        lambda content: [a.pop("id") for a in content["annotations"]],
        lambda content: [a.pop("area") for a in content["annotations"]],
    ],
)
def test_what_tools_write_differently_means_the_same(edited, edit):
    part = edited(edit)
    assert objects_of(part) == TRUTH
    assert [a["id"] for a in part.annotations] == [1, 2, 3]
    assert all(a["iscrowd"] == 0 and a["area"] > 0 for a in part.annotations)


def test_objects_without_masks_among_others_are_counted(edited):
    part = edited(first("annotations", segmentation=[]))
    assert part.notes == ("objects without mask, of which only the box is known: 1",)
    assert ["segmentation" in a for a in part.annotations] == [False, True, True]


def test_polygons_of_two_points_are_no_masks_and_are_counted(edited):
    part = edited(first("annotations", segmentation=[[1, 2, 3, 4]]))
    assert ["segmentation" in a for a in part.annotations] == [False, True, True]
    assert part.notes[1] == "polygons of fewer than three points left out: 1"


def test_ids_that_repeat_are_counted_and_replaced(edited):
    part = edited(first("annotations", id=2))
    assert part.notes == ("annotation ids that are used more than once: 1 (2)",)
    assert [a["id"] for a in part.annotations] == [1, 2, 3] and objects_of(part) == TRUTH


@pytest.mark.parametrize("value", [1, True, "1"])
@pytest.mark.parametrize("inside", [False, True])
def test_marks_stand_in_the_object_or_in_its_attributes(edited, value, inside):
    marks = {"occluded": value, "truncated": 0, "difficult": None, "rotation": 0.0}
    part = edited(first("annotations", **({"attributes": marks} if inside else marks)))
    assert [{key for key in a if key in MARKS} for a in part.annotations] == [{"occluded"}, set(), set()]


def test_pictures_are_searched_but_not_guessed(tmp_path):
    folder = copy_of("coco", tmp_path)
    (folder / "images").rename(folder / "pictures")
    part = read_instances(folder)
    assert objects_of(part) == TRUTH and part.image_root == folder / "pictures"
    shutil.copytree(folder / "pictures", folder / "blurred")
    with pytest.raises(AnnotationError, match="its pictures are in blurred, pictures of .*; keep one of these folders"):
        read_instances(folder)
    for name in ("pictures", "blurred"):
        shutil.rmtree(folder / name)
    with pytest.raises(AnnotationError, match=r"no picture such as a\.png in .*; put the pictures into .*/images"):
        read_instances(folder)


def test_paths_of_another_machine_keep_what_tells_pictures_apart(tmp_path):
    folder = copy_of("coco", tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    for image, part in zip(content["images"], ("x", "y"), strict=True):
        (folder / part).mkdir()
        (folder / "images" / image["file_name"]).rename(folder / part / "1.png")
        image["file_name"] = f"D:\\data\\pets\\{part}\\1.png"
    (folder / "instances.json").write_text(json.dumps(content))
    part = read_instances(folder)
    assert [image["file_name"] for image in part.images] == ["x/1.png", "y/1.png"]
    assert part.image_root == folder


def test_a_picture_that_stands_twice_is_said(edited):
    part = edited(lambda content: content["images"].append({**content["images"][0], "id": 9}))
    assert part.notes == ("pictures that stand in the file more than once: 1 (a.png)",)


def test_pictures_that_are_missing_are_counted(tmp_path):
    folder = copy_of("coco", tmp_path)
    (folder / "images/a.png").unlink()
    assert read_instances(folder).notes == (f"pictures that are not in {folder}/images: 1 of 2 (a.png)",)


def test_roboflow_s_group_of_classes_is_no_class_but_a_class_without_objects_is(edited, tmp_path):
    part = read_instances(copy_of("coco_roboflow", tmp_path), "train")
    assert [category["name"] for category in part.categories] == ["cat", "dog"]
    assert part.notes == ("class left out, because it only groups the others: 1 (pets)",)
    part = edited(lambda content: content["categories"].append({"id": 0, "name": "pets", "supercategory": "none"}))
    assert [category["name"] for category in part.categories] == ["pets", "cat", "dog"]
