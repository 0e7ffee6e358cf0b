"""LabelMe: shapes with an area, groups, pictures by their names, and what is said about the rest."""

import base64
import io
import json
import math

import numpy as np
import pytest
from format_scenes import TRUTH, copy_of, objects_of
from PIL import Image

from pe_spatial.common.errors import AnnotationError, UserError
from pe_spatial.data import decode_mask
from pe_spatial.data.formats import read_instances


@pytest.fixture
def one(tmp_path):
    """Reads a folder whose only file has these shapes and entries."""

    def make(shapes, **entries):
        folder = copy_of("labelme", tmp_path)
        for name in ("b.json", "b.png"):
            (folder / name).unlink()
        content = {**json.loads((folder / "a.json").read_text()), **entries}
        content["shapes"] = [{"label": "cat", "group_id": None, **shape} for shape in shapes]
        (folder / "a.json").write_text(json.dumps(content))
        return read_instances(folder)

    return make


TRIANGLE = {"shape_type": "polygon", "points": [[1, 2], [9, 2.5], [4, 8]]}
RECTANGLE = {"shape_type": "rectangle", "points": [[9, 8], [1, 2]]}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            {"shape_type": "point", "points": [[1, 2]]},
            r"shape 1 \(cat\): a point has no area.*draw a polygon, or delete",
        ),
        ({"shape_type": "line", "points": [[1, 2], [3, 4]]}, "a line has no area"),
        ({"shape_type": "linestrip", "points": [[1, 2], [3, 4], [5, 6]]}, "a linestrip has no area"),
        ({"shape_type": "points", "points": [[1, 2]]}, "a points has no area"),
        ({"shape_type": "cuboid", "points": [[1, 2]]}, "shape_type 'cuboid' is not one of polygon, rectangle, circle"),
        ({**TRIANGLE, "points": [[1, 2], [3, 4]]}, "a polygon of 2 points; it needs three"),
        ({**TRIANGLE, "points": [[1, 2], [3, 4], [5]]}, "points are not"),
        ({**TRIANGLE, "points": [[1, 2], [3, 4], [5, None]]}, "points are not"),
        ({**TRIANGLE, "points": [[1, 2], [3, 4], [5, math.nan]]}, "of finite numbers"),
        ({**TRIANGLE, "points": None}, "points are not"),
        ({**RECTANGLE, "points": [[1, 2]]}, "a rectangle of 1 points; it needs two points"),
        ({**RECTANGLE, "points": [[1, 2], [5, 3], [4, 7], [0, 6]]}, "a rectangle of 4 points; .* an upright rectangle"),
        ({**RECTANGLE, "points": [[1, 2], [1, 5]]}, "a rectangle of 0 × 3 pixels"),
        ({"shape_type": "circle", "points": [[1, 2], [1, 2]]}, "a circle without radius"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]]}, "it has no mask"),
        ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "?"}, "its mask is not base64"),
        ({**TRIANGLE, "label": None}, "shape 1: label is None; it must be a name"),
        ({**TRIANGLE, "label": " "}, "label is ' '"),
    ],
)
def test_shapes_without_area_or_sense_are_refused(one, shape, message):
    with pytest.raises(UserError, match=message) as error:
        one([shape])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"imageHeight": 32, "imageWidth": 24}, r"gives height 32 and width 24, but .*a\.png has 24 and 32 .*EXIF"),
        ({"imageHeight": "24"}, r"imageHeight and imageWidth are \['24', 32\]"),
        ({"imagePath": "../../other/a.png"}, "is outside the dataset"),
    ],
)
def test_pictures_of_other_sizes_or_places_are_refused(one, entries, message):
    with pytest.raises(AnnotationError, match=message):
        one([TRIANGLE], **entries)


@pytest.mark.parametrize(
    "path", ["C:\\Users\\me\\a.png", "/home/me/pictures/a.png", "other name.png", "", None, ".\\a.png"]
)
def test_the_picture_is_found_beside_the_file(one, path):
    part = one([RECTANGLE], imagePath=path, imageHeight=None, imageData="x" * 200_000)
    assert objects_of(part) == {"a": [("cat", [1, 2, 8, 6])]}


def test_a_rectangle_may_be_given_by_its_corners(one):
    part = one([{**RECTANGLE, "points": [[1, 2], [9, 2], [9, 8], [1, 8]]}])
    assert objects_of(part) == {"a": [("cat", [1, 2, 8, 6])]}


def test_polygons_of_one_label_and_group_are_one_object(one):
    other = {**TRIANGLE, "points": [[20, 10], [22, 10], [22, 12]]}
    parts = [{**TRIANGLE, "group_id": 1}, {**other, "group_id": 1}, {**other, "group_id": 1, "label": "dog"}, other]
    part = one(parts)
    assert [len(a["segmentation"]) for a in part.annotations] == [2, 1, 1]
    assert part.annotations[0]["bbox"] == [1, 2, 21, 10]
    with pytest.raises(AnnotationError, match="only polygons can share a group_id"):
        one([{**TRIANGLE, "group_id": 1}, {**RECTANGLE, "group_id": 1}])


def test_circles_are_polygons_of_their_area(one):
    part = one([{"shape_type": "circle", "points": [[16, 12], [16, 20]]}])
    assert part.annotations[0]["bbox"] == pytest.approx([8, 4, 16, 16])
    assert part.annotations[0]["area"] == pytest.approx(math.pi * 64, rel=2e-3)
    assert part.notes == (f"circles taken as polygons of 64 corners: 1 ({part.image_root}/a.json: shape 1 (cat))",)


def test_masks_are_taken_pixel_by_pixel(one):
    mask = np.random.default_rng(0).random((6, 9)) < 0.5
    mask[0, 0] = mask[-1, -1] = True
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    coded = base64.b64encode(content.getvalue()).decode()
    part = one([{"shape_type": "mask", "points": [[5, 3], [13, 8]], "mask": coded}])
    expected = np.zeros((24, 32), bool)
    expected[3:9, 5:14] = mask
    assert (decode_mask(part.annotations[0]["segmentation"], (24, 32)) == expected).all()
    assert part.annotations[0]["bbox"] == [5, 3, 9, 6]
    with pytest.raises(AnnotationError, match="outside the picture"):
        one([{"shape_type": "mask", "points": [[28, 3], [36, 8]], "mask": coded}])


def test_files_without_partner_are_counted_and_two_files_cannot_share_a_picture(tmp_path):
    folder = copy_of("labelme", tmp_path)
    (folder / "a.png").unlink()
    Image.new("RGB", (4, 4)).save(folder / "c.png")
    part = read_instances(folder)
    assert objects_of(part) == {"b": TRUTH["b"]}
    assert part.notes == (
        "files without picture, left out: 1 (a.json)",
        "pictures without JSON file, left out: 1 (c.png)",
    )
    (folder / "d.json").write_text((folder / "b.json").read_text())
    with pytest.raises(AnnotationError, match=r"d\.json: its picture b\.png is also the picture of b\.json"):
        read_instances(folder)


def test_classes_are_all_labels_or_those_of_the_list(tmp_path):
    folder = copy_of("labelme", tmp_path)
    (folder / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    assert [category["name"] for category in read_instances(folder).categories] == ["dog", "cat"]


@pytest.mark.parametrize("content", ['{"shapes": [', '{"shapes": 3}', '{"shapes": [3]}'])
def test_files_that_are_damaged_are_named(tmp_path, content):
    folder = copy_of("labelme", tmp_path)
    (folder / "a.json").write_text(content)
    with pytest.raises(AnnotationError, match=r"a\.json: (not JSON|shapes is not a list)"):
        read_instances(folder)
