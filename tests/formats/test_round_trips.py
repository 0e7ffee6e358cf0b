"""Conversions: what comes back is equal to the last bit, and what is lost is counted and refused."""

import copy
import json
from decimal import Decimal

import numpy as np
import pytest
from coco_scenes import random_coco, write_coco
from format_scenes import BOXES, TRUTH, objects_of, read_all
from PIL import Image

from pe_spatial.common.errors import AnnotationError, OptionError
from pe_spatial.data import decode_mask
from pe_spatial.data.formats import choose, read_instances, writing
from pe_spatial.data.formats.exact import decimal, divide, parse_number, to_text
from pe_spatial.data.formats.joining import join_polygons
from pe_spatial.data.formats.writing import losses, write_dataset


def random_boxes(seed, polygons):
    """A COCO dataset with boxes (or polygons and the boxes around them) of arbitrary floats."""
    rng = np.random.default_rng(seed)
    content = random_coco(seed, images=5, size=(61, 77), crowds=0)
    for annotation in content["annotations"]:
        annotation.pop("segmentation")
        corners = np.sort(rng.random((2, 2)), axis=0) * [77, 61]
        if polygons:
            points = rng.random((int(rng.integers(3, 9)), 2)) * [77, 61]
            annotation["segmentation"] = [points.reshape(-1).tolist()]
            corners = np.stack([points.min(0), points.max(0)])
        x, y, right, bottom = (decimal(value) for value in corners.reshape(-1).tolist())
        annotation["bbox"] = [float(value) for value in (x, y, right - x, bottom - y)]
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    content["categories"].sort(key=lambda category: category["id"])
    return content


def by_picture(part, keys=("bbox",)):
    """{file name: [(class, values of keys)]}, to compare without ids."""
    names = {category["id"]: category["name"] for category in part.categories}
    return {
        image["file_name"]: [
            (names[a["category_id"]], *(a.get(key) for key in keys))
            for a in part.annotations
            if a["image_id"] == image["id"]
        ]
        for image in part.images
    }


@pytest.mark.parametrize("polygons", [False, True], ids=["boxes", "polygons"])
@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
@pytest.mark.parametrize("pictures", ["link", "copy"])
def test_arbitrary_floats_come_back_equal(tmp_path, to, polygons, pictures):
    if to == "voc" and polygons:
        pytest.skip("VOC has no polygons; what is lost is tested below")
    write_coco(tmp_path / "in", random_boxes(3, polygons))
    before = read_instances(tmp_path / "in")
    assert write_dataset({"train": before}, tmp_path / "out", to, pictures) == []
    after = read_instances(tmp_path / "out")
    keys = ("bbox", "segmentation")
    assert by_picture(after, keys) == by_picture(before, keys)
    assert [c["name"] for c in after.categories] == [c["name"] for c in before.categories]
    sizes = [{image["file_name"]: (image["height"], image["width"]) for image in p.images} for p in (before, after)]
    assert sizes[0] == sizes[1]
    # and back to COCO, in a second step
    write_dataset({"train": after}, tmp_path / "back", "coco", pictures)
    back = read_instances(tmp_path / "back")
    assert by_picture(back, keys) == by_picture(before, keys)
    if to == "coco":
        assert back.as_coco() == before.as_coco()


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("name", BOXES)
def test_every_format_is_written_as_every_other(tmp_path, name, to):
    parts = read_all(name)
    write_dataset(parts, tmp_path / "out", to, "copy", allow_loss=True)
    reading = choose(tmp_path / "out")
    found = objects_of(*(reading.instances(split) for split in reading.splits))
    label = (lambda _: "object") if name.startswith("object_masks") else (lambda name: name)
    assert found == {stem: [(label(n), box) for n, box in entries] for stem, entries in TRUTH.items()}


def test_marks_come_back_through_voc(tmp_path):
    parts = read_all("voc")
    write_dataset(parts, tmp_path / "coco", "coco")
    between = {split: read_instances(tmp_path / "coco", split) for split in parts}
    write_dataset(between, tmp_path / "voc", "voc")
    keys = ("bbox", "truncated", "difficult", "occluded")
    assert by_picture(read_instances(tmp_path / "voc", "train"), keys) == by_picture(parts["train"], keys)
    assert by_picture(parts["train"], ("truncated",)) == {"a.jpg": [("cat", None), ("dog", 1)]}


SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


@pytest.mark.parametrize(
    ("entries", "to", "message"),
    [
        ({"iscrowd": 1}, "yolo", "crowds left out: 1"),
        ({"iscrowd": 1}, "voc", "crowds left out: 1"),
        (
            {"segmentation": {"size": [61, 77], "counts": [0, 61 * 77]}},
            "yolo",
            "masks of pixels .RLE. left out, boxes kept: 1",
        ),
        ({"segmentation": SQUARE, "bbox": [10, 10, 10, 10]}, "voc", "masks left out, boxes kept: 1"),
        ({"segmentation": SQUARE, "bbox": [10, 10, 10, 11]}, "yolo", "boxes that are not those around their polygons"),
        (
            {"segmentation": SQUARE * 2, "bbox": [10, 10, 10, 10]},
            "yolo",
            "objects of several polygons joined to one: 1",
        ),
        ({"difficult": 1}, "yolo", "marks .*left out: 1"),
        ({"bbox": [-3, 5, 10, 10]}, "yolo", "objects that leave the picture clipped: 1"),
        ({"bbox": [70, 5, 10, 10]}, "voc", "objects that leave the picture clipped: 1"),
        ({"bbox": [5, 5, 0, 10]}, "yolo", "objects whose box has no area in the picture left out: 1"),
        ({"bbox": [77, 5, 3, 10]}, "voc", "objects whose box has no area in the picture left out: 1"),
    ],
)
def test_what_is_lost_is_counted_and_refused(tmp_path, entries, to, message):
    content = random_boxes(4, polygons=False)
    content["annotations"][0].update(entries)
    write_coco(tmp_path / "in", content)
    before = read_instances(tmp_path / "in")
    with pytest.raises(AnnotationError, match=f"{to} cannot store everything; train: {message}.*--allow-loss"):
        write_dataset({"train": before}, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    assert losses(before, "coco") == []
    (line,) = write_dataset({"train": before}, tmp_path / "out", to, allow_loss=True)
    assert line.startswith("train: ")
    after = read_instances(tmp_path / "out")
    gone = "left out: 1" in message and "boxes kept" not in message and "marks" not in message
    assert len(after.annotations) == len(before.annotations) - gone
    first = before.images[0]["file_name"]
    rest = {name: boxes for name, boxes in by_picture(before).items() if name != first}
    assert {name: boxes for name, boxes in by_picture(after).items() if name != first} == rest


def test_joined_polygons_cover_the_same_pixels(tmp_path):
    parts = [[2, 2, 12, 2, 12, 12, 2, 12], [30, 20, 50, 20, 40, 40], [60, 5, 70, 5, 70, 15, 60, 15]]
    content = random_boxes(5, polygons=False)
    content["annotations"][0].update(segmentation=parts, bbox=[2, 2, 68, 38])
    write_coco(tmp_path / "in", content)
    before = read_instances(tmp_path / "in")
    write_dataset({"val": before}, tmp_path / "out", "yolo", allow_loss=True)
    (mask,) = (a["segmentation"] for a in read_instances(tmp_path / "out").annotations if "segmentation" in a)
    pixels = [decode_mask(m, (61, 77)) for m in (parts, mask)]
    assert len(mask) == 1
    assert (pixels[0] & ~pixels[1]).sum() == 0
    assert pixels[1].sum() - pixels[0].sum() <= 80  # the lines between the parts
    corners = [[(Decimal(x), Decimal(y)) for x, y in zip(p[::2], p[1::2], strict=True)] for p in parts]
    assert {*join_polygons(corners)} == {point for part in corners for point in part}


def test_nothing_is_overwritten_and_names_do_not_meet(tmp_path):
    parts = read_all("yolo_boxes")
    (tmp_path / "out").mkdir()
    write_dataset(parts, tmp_path / "out", "coco")  # an empty folder is fine
    with pytest.raises(OptionError, match="is not empty, and nothing is overwritten"):
        write_dataset(parts, tmp_path / "out", "coco")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="is not empty"):
        write_dataset(parts, tmp_path / "file", "coco")
    with pytest.raises(AnnotationError, match="several pictures would get the name JPEGImages/a; .*--split"):
        write_dataset({"train": parts["train"], "more": parts["train"]}, tmp_path / "voc", "voc")
    with pytest.raises(OptionError, match="to 'darknet' is not one of coco, yolo, voc"):
        write_dataset(parts, tmp_path / "x", "darknet")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, AnnotationError])
@pytest.mark.parametrize(("to", "pictures"), [("yolo", "link"), ("voc", "keep"), ("coco", "copy")])
def test_an_interrupted_conversion_leaves_nothing_that_looks_whole(tmp_path, monkeypatch, to, pictures, error):
    parts, steps = read_all("yolo_boxes"), []

    def fail(path, *_):
        steps.append(path)
        raise error("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_json_stream" if to == "coco" else "write_text", fail)
        with pytest.raises(error, match="in the middle"):
            write_dataset(parts, tmp_path / "out", to, pictures)
    assert steps and not list(tmp_path.iterdir())
    write_dataset(parts, tmp_path / "out", to, pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if pictures != "keep":
        assert sum(len(choose(tmp_path / "out").instances(split).images) for split in parts) == len(TRUTH)


def test_splits_of_other_classes_and_names_that_xml_does_not_keep_are_refused(tmp_path):
    parts = copy.deepcopy(read_all("yolo_boxes"))
    parts["val"].categories.reverse()
    with pytest.raises(AnnotationError, match=r"the classes of val \(dog, cat\) are not those of train"):
        write_dataset(parts, tmp_path / "out", "yolo")
    for name in (" cat", "c\nat", "c\x01at"):
        parts["train"].categories[0]["name"] = name
        with pytest.raises(AnnotationError, match="characters that XML cannot store"):
            write_dataset({"train": parts["train"]}, tmp_path / "out", "voc")


@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_names_of_any_kind_come_back(tmp_path, to):
    names = ["no", "010", "1e3", "<b>&amp;", 'Zürich "quoted"', "a: b # c", "null", "- x", "[y]", "猫"]
    content = random_boxes(6, polygons=False)
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = number % len(names)
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"sub {number % 2}/é & {number}.png"
    (tmp_path / "in/images").mkdir(parents=True)
    for number in (0, 1):
        (tmp_path / f"in/images/sub {number}").mkdir()
    for image in content["images"]:
        Image.new("RGB", (77, 61)).save(tmp_path / "in/images" / image["file_name"])
    (tmp_path / "in/instances.json").write_text(json.dumps(content))
    before = read_instances(tmp_path / "in")
    write_dataset({"train": before}, tmp_path / "out", to)
    after = read_instances(tmp_path / "out")
    assert [category["name"] for category in after.categories] == names
    assert by_picture(after) == by_picture(before)


def test_annotations_alone_are_written_where_pictures_stay(tmp_path):
    parts = read_all("yolo_boxes")
    write_dataset(parts, tmp_path / "out", "voc", "keep")
    assert not (tmp_path / "out/JPEGImages").exists()
    assert len(list((tmp_path / "out/Annotations").iterdir())) == 2


def test_missing_pictures_are_named_before_anything_is_written(tmp_path):
    write_coco(tmp_path / "in", random_boxes(7, polygons=False))
    (tmp_path / "in/images/000.png").unlink()
    with pytest.raises(AnnotationError, match=r"1 of 5 pictures are missing \(.*000\.png\).*--pictures keep"):
        write_dataset({"all": read_instances(tmp_path / "in")}, tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_pictures_of_another_size_are_refused(tmp_path, to):
    write_coco(tmp_path / "in", random_boxes(8, polygons=False))
    Image.new("RGB", (61, 77)).save(tmp_path / "in/images/001.png")
    with pytest.raises(
        AnnotationError, match=r"instances\.json: image 001\.png: gives height 61 and width 77, .* EXIF"
    ):
        write_dataset({"all": read_instances(tmp_path / "in")}, tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_numbers_written_as_texts_are_exact():
    rng = np.random.default_rng(0)
    for side in (3, 7, 640, 1333, 99_991):
        for value in (*(rng.random(200) * side).tolist(), 0.1, side - 0.1, 1e-4, float(side)):
            text = to_text(divide(decimal(value), side))
            assert float(parse_number(text) * side) == value
            assert "e" not in text.lower()
    assert [to_text(Decimal(text)) for text in ("1.500", "0.0", "-0.50", "100", "1E+2")] == [
        "1.5",
        "0",
        "-0.5",
        "100",
        "100",
    ]
    for text in ("nan", "inf", "1_0", "", "0x1", "1e9999", "٣"):
        with pytest.raises(ValueError):
            parse_number(text)
