import copy
import logging

import pytest
from coco_scenes import random_coco, write_coco
from mmengine.registry import DATASETS

from pe_spatial.common.errors import AnnotationError
from pe_spatial.detection import CocoInstances


@pytest.fixture
def content():
    return random_coco(0)


def dataset(folder, content, **options):
    return CocoInstances(**write_coco(folder, content), **options)


def test_labels_follow_the_ids_over_their_gaps(tmp_path, content):
    data = dataset(tmp_path, content)
    assert data.metainfo["classes"] == ("car", "dog", "tree")
    assert data.metainfo["category_ids"] == (2, 5, 9)
    by_image = {record["img_id"]: record for record in map(data.get_data_info, range(len(data)))}
    for image in content["images"]:
        record = by_image[image["id"]]
        truth = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [(2, 5, 9)[item["label"]] for item in record["instances"]] == [a["category_id"] for a in truth]
        assert [item["ignore"] for item in record["instances"]] == [bool(a["iscrowd"]) for a in truth]
        for item, annotation in zip(record["instances"], truth, strict=True):
            x, y, w, h = annotation["bbox"]
            assert item["bbox"] == [x, y, x + w, y + h]
            assert item["mask"] == annotation["segmentation"]
            assert item["id"] == annotation["id"]


def test_an_annotation_without_an_id_stays_without(tmp_path, content):
    del content["annotations"][0]["id"]
    data = dataset(tmp_path, content)
    items = [item for i in range(len(data)) for item in data.get_data_info(i)["instances"]]
    assert sorted(item["id"] for item in items if "id" in item) == [a["id"] for a in content["annotations"][1:]]


def test_classes_may_be_chosen_and_ordered(tmp_path, content):
    data = dataset(tmp_path, content, metainfo={"classes": ["tree", "car"]})
    assert data.metainfo["category_ids"] == (9, 2)
    count = sum(len(data.get_data_info(i)["instances"]) for i in range(len(data)))
    assert count == sum(a["category_id"] in (9, 2) for a in content["annotations"])


def test_unknown_class_names_the_nearest(tmp_path, content):
    with pytest.raises(AnnotationError, match="no category 'tre'; did you mean 'tree'"):
        dataset(tmp_path, content, metainfo={"classes": ["tre"]})


def test_images_without_objects_stay_or_go(tmp_path, content):
    for annotation in content["annotations"]:
        if annotation["image_id"] == 10:
            annotation["iscrowd"] = 1
    assert len(dataset(tmp_path / "a", content)) == 6
    kept = dataset(tmp_path / "b", content, keep_empty=False)
    assert {kept.get_data_info(i)["img_id"] for i in range(len(kept))} == {13, 16, 19, 22}


def test_images_of_each_class_are_counted(tmp_path, content):
    data = dataset(tmp_path, content)
    per_image = [data.get_cat_ids(i) for i in range(len(data))]
    assert data.metainfo["image_counts"] == [sum(label in labels for labels in per_image) for label in range(3)]
    objects = [a["category_id"] for a in content["annotations"] if not a["iscrowd"]]
    assert data.class_counts() == {name: objects.count(n) for name, n in (("car", 2), ("dog", 5), ("tree", 9))}
    expected = {a["category_id"] for a in content["annotations"] if a["image_id"] == 10 and not a["iscrowd"]}
    assert {(2, 5, 9)[label] for label in per_image[0]} == expected


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(
        "pe_spatial.detection.datasets.print_log", lambda text, logger, level=logging.INFO: lines.append(text)
    )
    return lines


def test_boxes_outside_are_clipped_or_left_out_in_one_line(tmp_path, warnings):
    content = random_coco(0, crowds=0)
    box, lost, flat = content["annotations"][:3]
    box["bbox"] = [70, 50, 40, 40]
    lost["bbox"] = [100, 10, 5, 5]
    flat["bbox"] = [10, 10, 0, 7]
    content["annotations"][3]["segmentation"] = [[1, 1, 5, 5]]
    data = dataset(tmp_path, content)
    instances = [item for i in range(len(data)) for item in data.get_data_info(i)["instances"]]
    assert len(instances) == len(content["annotations"]) - 2
    assert instances[0]["bbox"] == [70, 50, 80, 60]
    assert sum(item.get("mask_too_small", False) for item in instances) == 1  # a detector of boxes keeps its box
    assert data.metainfo["mask_counts"] == {"given": len(instances) - 1, "none": 0, "too_small": 1}
    assert len(warnings) == 1
    for part in ("2 boxes without area", "1 boxes that leave", "1 masks without a polygon"):
        assert part in warnings[0]


def test_nothing_to_report_is_silent(tmp_path, content, warnings):
    dataset(tmp_path, content)
    assert not warnings


def broken(content, change):
    content = copy.deepcopy(content)
    change(content)
    return content


def set_in(kind, **values):
    return lambda content: content[kind][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("annotations", category_id=4), "1 of .* category_id that is not in the file, for example 4"),
        (set_in("annotations", image_id=99), "image_id that is not in the file, for example 99"),
        (set_in("annotations", bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\]"),
        (set_in("annotations", bbox=[1, 2, float("nan"), 3]), "four finite numbers"),
        (set_in("images", id="seven"), "image 'seven': id is 'seven', but must be an integer"),
        (set_in("images", id=13), "image id 13 is used twice"),
        (set_in("categories", id=5), r"categories 5 twice have the id 5"),
        (set_in("categories", name="car"), "categories .* have the name 'car'"),
        (lambda content: content["images"][0].pop("height"), "image 10 has no height"),
        (lambda content: content.pop("categories"), "no list of categories .it has: images, annotations"),
    ],
)
def test_contradictions_are_named(tmp_path, content, change, message):
    arguments = write_coco(tmp_path, content)
    (tmp_path / "instances.json").write_text(__import__("json").dumps(broken(content, change)))
    with pytest.raises(AnnotationError, match=message):
        CocoInstances(**arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!DOCTYPE html>", "not JSON: .*begins with '<!DOCTYPE html>'"),
        ('[{"image_id": 1}]', "detection results or a bare list instead of a COCO dictionary"),
        ('{"info": {}}', "no list of images and annotations and categories .it has: info"),
        (None, "no such annotation file; check data_root"),
    ],
)
def test_what_is_not_coco_is_described(tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        CocoInstances(ann_file="a.json", data_root=str(tmp_path))


def test_images_without_files_fail_at_the_start(tmp_path, content):
    arguments = write_coco(tmp_path, content)
    (tmp_path / "images" / "002.png").unlink()
    with pytest.raises(AnnotationError, match="1 of 6 images are not in their folder, for example .*002.png"):
        CocoInstances(**arguments)
    with pytest.raises(AnnotationError, match="6 of 6 images"):
        CocoInstances(**{**arguments, "data_prefix": {"img_path": "pictures"}})


def test_samples_come_out_of_a_pipeline(tmp_path, content):
    pipeline = [{"type": "LoadImage"}, {"type": "LoadInstances"}, {"type": "PackSample"}]
    data = DATASETS.build({"type": "CocoInstances", **write_coco(tmp_path, content), "pipeline": pipeline})
    truth = data[0]["data_samples"].gt_instances
    objects = [a for a in content["annotations"] if a["image_id"] == 10 and not a["iscrowd"]]
    assert truth.masks.sum(dim=(1, 2)).tolist() == [a["area"] for a in objects]
    assert data[5]["data_samples"].gt_instances.masks.shape == (0, 60, 80)
