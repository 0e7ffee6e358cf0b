"""Values of other tools are converted or refused, in the same way by the fast parser and by the slow one."""

import json
import math

import msgspec
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations.entries import Category, Image, Object, PanopticMap, convert, decode
from pe_spatial.data.annotations.masks import normalize_mask
from pe_spatial.data.coco_masks import check_rle

SQUARE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
PLAIN = {"id": 1, "image_id": 2, "category_id": 3, "bbox": [1, 1, 8, 8], "area": 32.0, "segmentation": [SQUARE]}


def read(kind, item):
    """What the file gives; the slow way alone must give the same."""
    results = []
    for way in (
        lambda: decode(kind, json.dumps([item]).encode(), "file.json")[0],
        lambda: convert(kind, json.loads(json.dumps(item)), "file.json", 0),
    ):
        try:
            results.append(msgspec.to_builtins(way()))
        except AnnotationError as error:
            results.append(str(error))
    assert results[0] == results[1]
    if isinstance(results[0], str):
        raise AnnotationError(results[0])
    return results[0]


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("id", "7", 7),
        ("id", 7.0, 7),
        ("id", -3, -3),
        ("id", None, None),
        ("image_id", "0012", 12),
        ("bbox", ["1", 1, "8.5", 8], [1.0, 1.0, 8.5, 8.0]),
        ("area", "1494", 1494.0),
        ("area", None, None),
        ("area", "", None),
        ("iscrowd", "0", 0),
        ("iscrowd", None, 0),
        ("iscrowd", False, 0),
        ("iscrowd", True, 1),
        ("iscrowd", "true", 1),
        ("iscrowd", 1.0, 1),
        ("date_captured", 0, ...),
        ("attributes", {"occluded": [False]}, ...),
        ("segmentation", [], None),
        ("segmentation", [[]], None),
        ("segmentation", None, None),
        ("segmentation", "", None),
        ("segmentation", SQUARE, [SQUARE]),
        ("segmentation", [[1, 1], [9, 1], [9, 9]], [SQUARE]),
        ("segmentation", [[[1, 1], [9, 1], [9, 9]]], [SQUARE]),
        ("segmentation", [{"x": 1, "y": 1}, {"x": 9, "y": 1}, {"x": 9, "y": "9"}], [SQUARE]),
        ("segmentation", [SQUARE, []], [SQUARE]),
        ("segmentation", [SQUARE, SQUARE], [SQUARE, SQUARE]),
        ("segmentation", [[1, 1, 5, 5]], [[1.0, 1.0, 5.0, 5.0]]),
        ("segmentation", [{"size": [2, 3], "counts": [1, 5]}], {"size": [2, 3], "counts": [1, 5]}),
        ("segmentation", {"size": ["2", 3.0], "counts": [1.0, "5"]}, {"size": [2, 3], "counts": [1, 5]}),
    ],
)
def test_what_is_plain_is_converted(key, given, expected):
    result = read(Object, {**PLAIN, key: given})
    changed = {} if expected is ... else {key: expected}
    assert json.dumps(result, sort_keys=True) == json.dumps(read(Object, PLAIN) | changed, sort_keys=True)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("id", 2**63, "id is 9223372036854775808, but must be an integer"),
        ("id", 1.5, "id is 1.5"),
        ("id", True, "id is True"),
        ("image_id", None, "image_id is None, but must be an integer"),
        ("image_id", "x", "image_id is 'x'"),
        ("category_id", [3], "category_id is"),
        ("bbox", None, "bbox is None, but must be four finite numbers"),
        ("bbox", [1, 2, 3], "bbox is"),
        ("bbox", [1, 2, None, 3], "bbox is"),
        ("bbox", [1, 2, math.nan, 3], "bbox is"),
        ("bbox", [1, 2, math.inf, 3], "bbox is"),
        ("bbox", {"x": 1}, "bbox is"),
        ("area", "big", "area is 'big', but must be a finite number"),
        ("area", math.nan, "area is nan"),
        ("iscrowd", 2, "iscrowd is 2, but must be 0 or 1"),
        ("iscrowd", [0], "iscrowd is"),
        ("segmentation", "abc", "segmentation is 'abc'"),
        ("segmentation", 5, "segmentation is 5"),
        ("segmentation", {}, "an RLE is"),
        ("segmentation", {"size": [2, 3], "counts": None}, "RLE"),
        ("segmentation", {"size": [2], "counts": [6]}, "RLE of the size"),
        ("segmentation", {"size": [2, 3], "counts": [1, 6]}, "an RLE of 7 pixels"),
        ("segmentation", {"size": [2, 3], "counts": [-1, 7]}, "an RLE of 6 pixels"),
        ("segmentation", {"size": [2, 3], "counts": "~~"}, "an RLE of 28 pixels"),
        ("segmentation", {"size": [2, 3], "counts": "o"}, "damaged compressed runs"),
        ("segmentation", {"size": [2, 3], "counts": "1"}, "an RLE of 1 pixels"),
        ("segmentation", [[1, 1, 9, 1, 9]], "polygon with 5 coordinates"),
        ("segmentation", [[1, 1, 9, 1, 9, None]], "coordinate None"),
        ("segmentation", [[1, 1, 9, 1, 9, math.nan]], "coordinate nan"),
        ("segmentation", [[1, 1, 9, 1, 9, -math.inf]], "coordinate -inf"),
        ("segmentation", [[1, 1, 9, 1, 9, "x"]], "coordinate 'x'"),
        ("segmentation", [[1, 1, 9, 1, 9, [9]]], "coordinate"),
        ("segmentation", [SQUARE, "x"], "holds 'x'"),
    ],
)
def test_what_is_not_is_refused_with_file_entry_and_rule(key, given, message):
    with pytest.raises(AnnotationError, match=message) as caught:
        read(Object, {**PLAIN, key: given})
    assert str(caught.value).startswith("file.json: annotation ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("item", [None, 3, "x", [], {}])
def test_entries_that_are_none_are_refused_by_their_place(item):
    for kind in (Image, Object, Category, PanopticMap):
        with pytest.raises(AnnotationError, match="number 1 of the list"):
            read(kind, item)


@pytest.mark.parametrize(
    ("kind", "item", "key", "value"),
    [
        (Category, {"id": "3", "name": 4}, "name", "4"),
        (Category, {"id": 3, "name": "a", "isthing": True}, "isthing", 1),
        (Image, {"id": 3, "height": "480", "width": 640.0}, "height", 480),
        (Image, {"id": 3, "height": None}, "height", None),
        (Image, {"id": 3, "file_name": 17}, "file_name", "17"),
        (Image, {"id": 3, "file_name": "a..b/..c/d../.. e"}, "file_name", "a..b/..c/d../.. e"),
        (PanopticMap, {"image_id": 1, "file_name": "a", "segments_info": [{"id": "5", "category_id": 1}]}, None, None),
    ],
)
def test_other_entries_are_converted_too(kind, item, key, value):
    result = read(kind, item)
    assert key is None or result.get(key) == value


@pytest.mark.parametrize(
    ("kind", "item", "message"),
    [
        (Category, {"id": 3}, "name is missing; it must be text"),
        (Category, {"id": 3, "name": " "}, "name is ' '"),
        (Category, {"id": 3, "name": "a", "color": "red"}, r"color is 'red', but must be \[red, green, blue\]"),
        (Image, {"id": 3, "height": 0}, "height is 0, but must be 1 to"),
        (Image, {"id": 3, "height": 10**7}, "height is"),
        (Image, {"id": 3, "height": "tall"}, "height is 'tall'"),
        (Image, {"id": 3, "file_name": ["a"]}, "file_name is"),
        (Image, {"id": 3, "file_name": "../a.jpg"}, "file_name is '../a.jpg', but must be a path below"),
        (Image, {"id": 3, "file_name": "/a.jpg"}, "must be a path below"),
        (Image, {"id": 3, "file_name": "a/b/.."}, "must be a path below"),
        (Image, {"id": 3, "file_name": "a\0.jpg"}, "must be a path below"),
        (PanopticMap, {"image_id": 1, "file_name": "a", "segments_info": [{"id": 5}]}, "category_id is missing"),
        (PanopticMap, {"image_id": 1, "file_name": "a"}, "segments_info is missing"),
    ],
)
def test_other_entries_are_refused_too(kind, item, message):
    with pytest.raises(AnnotationError, match=message):
        read(kind, item)


def test_several_rles_are_united():
    rng = np.random.default_rng(0)
    masks = rng.random((3, 20, 30)) < 0.2
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    united = normalize_mask([{"size": [20, 30], "counts": rle["counts"].decode()} for rle in rles])
    drawn = coco_mask.decode({"size": [20, 30], "counts": united.counts.encode()})
    np.testing.assert_array_equal(drawn.astype(bool), masks.any(0))


@pytest.mark.parametrize("seed", range(20))
def test_every_rle_of_pycocotools_passes_and_a_changed_one_does_not(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 70, 2)
    mask = rng.random((height, width)) < rng.random()
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    check_rle({"size": [height, width], "counts": counts}, (height, width))
    with pytest.raises(ValueError, match="RLE"):
        check_rle({"size": [height + 1, width], "counts": counts}, (height + 1, width))
    with pytest.raises(ValueError, match="RLE"):
        check_rle({"size": [height, width], "counts": counts + "7"}, (height, width))
