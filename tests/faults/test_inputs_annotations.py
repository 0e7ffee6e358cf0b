"""COCO files as tools write them: the doctor is silent on what is sound, and names what is not; truth scores 1."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from pe_spatial.data.annotations import CocoTable
from pe_spatial.detection.average_precision import average_precision
from pe_spatial.detection.datasets import CocoInstances
from pe_spatial.detection.metrics import CocoMetric
from pe_spatial.doctor import ExaminationOptions, examine

BASE = Path(__file__).parent / "data/detection/base"
OBJECTS = 16
RLE = json.loads((BASE / "base.json").read_text())["annotations"][0]["segmentation"]


def changed(root, change):
    """The sound file with one change, and its dataset's config."""
    content = json.loads((BASE / "base.json").read_text())
    change(content)
    (root / "changed.json").write_text(json.dumps(content))
    return {
        "data_root": str(BASE),
        "ann_file": str(root / "changed.json"),
        "data_prefix": {"img_path": "images"},
    }


def findings(config, masks):
    steps = [{"type": "LoadImage"}, {"type": "LoadInstances", "masks": masks}, {"type": "PackSample"}]
    (report,) = examine(
        {"train_dataloader": {"dataset": {"type": "CocoInstances", **config, "pipeline": steps}}}, ExaminationOptions()
    )
    return "\n".join(report.findings.lines())


def score_of_truth(config):
    """Average precision of the truth itself, given as detections; the objects that there are."""
    dataset = CocoInstances(**config, pipeline=[], test_mode=True)
    metric = CocoMetric(iou_types=["bbox"])
    metric.dataset_meta = dataset.metainfo
    count = 0
    for row in range(len(dataset)):
        record = dataset.get_data_info(row)
        objects = [item for item in record["instances"] if not item["ignore"]]
        count += len(objects)
        boxes = torch.tensor([item["bbox"] for item in objects], dtype=torch.float64).reshape(-1, 4)
        labels = torch.tensor([item["label"] for item in objects], dtype=torch.int64)
        found = InstanceData(bboxes=boxes, labels=labels, scores=torch.ones(len(objects)))
        metric.process({}, [BaseDataElement(metainfo={"img_id": record["img_id"]}, pred_instances=found).to_dict()])
    return metric.compute_metrics(metric.results)["bbox_mAP"], count


def each(key, **fields):
    return lambda content: [entry.update(fields) for entry in content[key]]


def first(key, **fields):
    return lambda content: content[key][0].update(fields)


def without(key, field):
    return lambda content: [entry.pop(field) for entry in content[key]]


def ids(change, *places):
    """Changes the ids at some places: (list, field)."""
    return lambda content: [entry.update({f: change(entry[f])}) for key, f in places for entry in content[key]]


def boxes(change):
    return lambda content: [entry.update(bbox=change(*entry["bbox"])) for entry in content["annotations"]]


def outlines(form):
    """Masks of the corners of each box, in another form."""

    def change(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["segmentation"] = form([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])

    return change


def flat(points):
    return [number for point in points for number in point]


IMAGES = (("images", "id"), ("annotations", "image_id"))
CLASSES = (("categories", "id"), ("annotations", "category_id"))
SOUND = {
    "base": lambda content: None,
    # fields that nobody reads
    "date_null": each("images", date_captured=None),
    "license_text": each("images", license="mine", flickr_url=7, date_captured={"a": 1}),
    "coco_url_number": each("images", coco_url=7),
    "coco_url_path": each("images", coco_url="/data/../a.jpg"),
    "coco_url_list": each("images", coco_url=["a"]),
    "info_text": lambda content: content.update(info="mine", licenses=None),
    "keypoints": each("annotations", keypoints=[0] * 51, score=None, ignore=1),
    # names and ids
    "name_float": lambda content: [c.update(name=float(c["id"])) for c in content["categories"]],
    "supercategory_null": each("categories", supercategory=None),
    "ids_text": ids(str, *IMAGES, *CLASSES, ("annotations", "id")),
    "ids_float": ids(float, *IMAGES, *CLASSES),
    "image_ids_negative": ids(lambda number: -number, *IMAGES),
    "class_ids_negative": ids(lambda number: -number, *CLASSES),
    "all_ids_negative": ids(lambda number: -number, *IMAGES, *CLASSES, ("annotations", "id")),
    "ids_huge": ids(lambda number: 2**62 + number, *IMAGES, ("annotations", "id")),
    "class_ids_huge": ids(lambda number: 2**31 + number, *CLASSES),
    "ids_absent": without("annotations", "id"),
    "ids_twice": each("annotations", id=1),
    # values
    "sizes_text": lambda content: [
        i.update(height=str(i["height"]), width=float(i["width"])) for i in content["images"]
    ],
    "crowd_false": each("annotations", iscrowd=False),
    "crowd_text": each("annotations", iscrowd="false"),
    "crowd_absent": without("annotations", "iscrowd"),
    "crowd_float": each("annotations", iscrowd=0.0),
    "area_null": each("annotations", area=None),
    "area_absent": without("annotations", "area"),
    "area_zero": each("annotations", area=0),
    "box_text": boxes(lambda *box: [str(number) for number in box]),
    # masks
    "polygons_nested": outlines(lambda points: [flat(points)]),
    "polygons_flat": outlines(flat),
    "polygons_of_points": outlines(lambda points: points),
    "polygons_of_lists_of_points": outlines(lambda points: [points]),
    "polygons_of_xy": outlines(lambda points: [{"x": x, "y": y} for x, y in points]),
    "polygons_text": outlines(lambda points: [[str(number) for number in flat(points)]]),
    "rle_in_list": lambda content: [a.update(segmentation=[a["segmentation"]]) for a in content["annotations"]],
    "rle_size_text": lambda content: [a["segmentation"].update(size=["128", 128.0]) for a in content["annotations"]],
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_plain_is_no_finding_and_scores_one(tmp_path, name):
    config = changed(tmp_path, SOUND[name])
    found = [line for line in findings(config, masks=True).splitlines() if not line.startswith(" ")]
    known = ("gaps", "values converted, such as", *(["ids are used more"] if name == "ids_twice" else []))
    assert all(any(text in line for text in known) for line in found)
    assert score_of_truth(config) == (1, OBJECTS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rle_in_list", f"annotation segmentation: {OBJECTS} values converted, such as [{{'size'"),
        ("crowd_text", f"annotation iscrowd: {OBJECTS} values converted, such as 'false'"),
        ("info_text", ""),
    ],
)
def test_what_is_converted_is_said(tmp_path, name, said):
    found = findings(changed(tmp_path, SOUND[name]), masks=True)
    assert said in found and ("converted" in found) == bool(said)


UNDRAWN = "16 of 16 objects have no mask"
BOXES_ALONE = {
    "seg_null": each("annotations", segmentation=None),
    "seg_of_nothing": each("annotations", segmentation=[[]]),
    "seg_absent": without("annotations", "segmentation"),
    "two_points": outlines(lambda points: [flat(points)[:4]]),
    "two_points_flat": outlines(lambda points: flat(points)[:4]),
    "two_points_and_null": lambda content: (
        outlines(lambda points: points[:2])(content),
        first("annotations", segmentation=None)(content),
    ),
}


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_objects_without_masks_are_for_detectors_of_boxes(tmp_path, name):
    config = changed(tmp_path, BOXES_ALONE[name])
    assert UNDRAWN in findings(config, masks=True)
    assert "error" not in findings(config, masks=False)
    assert score_of_truth(config) == (1, OBJECTS)


FAULTY = {
    # values that no place in the file explains; each names the entry and the rule
    "height_text": (first("images", height="128px"), "image 6: height is '128px', but must be an integer"),
    "height_absent": (lambda content: content["images"][0].pop("height"), "image 6 has no height"),
    "width_zero": (first("images", width=0), "image 6: width is 0, but must be 1 to"),
    "width_negative": (first("images", width=-128), "image 6: width is -128"),
    "file_name_empty": (first("images", file_name=""), "image 6 has no file_name"),
    "file_name_list": (first("images", file_name=["a.jpg"]), "image 6: file_name is .*must be text"),
    "file_name_absolute": (first("images", file_name="/a.jpg"), "image 6: file_name is .*a path below"),
    "image_null": (lambda content: content["images"].append(None), "image number 7 of the list: None"),
    "annotation_list": (lambda content: content["annotations"].insert(0, []), "annotation number 1 of the list"),
    "class_null": (lambda content: content["categories"].append(None), "category number 4 of the list: None"),
    "annotations_null": (lambda content: content.update(annotations=None), "no list of annotations"),
    "images_by_id": (lambda content: content.update(images={}), "no list of images"),
    "image_ids_twice": (ids(lambda number: 6, ("images", "id")), "image id 6 is used twice"),
    "class_ids_twice": (ids(lambda number: 3, ("categories", "id")), "have the id 3"),
    "names_twice": (each("categories", name="disc"), "have the name 'disc'; it must be unique"),
    "name_null": (first("categories", name=None), "category 3: name is None, but must be text"),
    "name_true": (first("categories", name=True), "category 3: name is True"),
    "ids_of_letters": (ids("img{}".format, *IMAGES), "image 'img6': id is 'img6', but must be an integer"),
    "ids_too_large": (first("annotations", id=2**63), "id is 9223372036854775808"),
    "class_unknown": (first("annotations", category_id=77), "have a category_id that is not in the file.*77"),
    "image_unknown": (first("annotations", image_id=77), "have a image_id that is not in the file.*77"),
    "image_id_null": (first("annotations", image_id=None), "image_id is None, but must be an integer"),
    "crowd_2": (first("annotations", iscrowd=2), "iscrowd is 2, but must be 0 or 1"),
    "crowd_no": (first("annotations", iscrowd="no"), "iscrowd is 'no'"),
    "crowds_alone": (each("annotations", iscrowd=1), "all 16 annotations are crowds.*iscrowd: 1"),
    "area_text": (first("annotations", area="large"), "area is 'large', but must be a finite number"),
    "area_negative": (each("annotations", area=-5), "area is -5, but must be 0 or more"),
    "area_nan": (first("annotations", area=math.nan), "area is nan"),
    "box_null": (first("annotations", bbox=None), "annotation 1 .image 6.: bbox is None, but must be four"),
    "box_nan": (first("annotations", bbox=[math.nan, 5, 10, 10]), "bbox is .nan"),
    "box_nested": (first("annotations", bbox=[[5, 5, 10, 10]]), "bbox is"),
    "box_by_name": (first("annotations", bbox={"x": 1, "y": 2}), "bbox is"),
    "box_of_no_size": (first("annotations", bbox=[50, 50, 0, 10]), "boxes without area in their image"),
    "box_of_negative_size": (first("annotations", bbox=[50, 50, -10, -10]), "boxes without area in their image"),
    "box_elsewhere": (first("annotations", bbox=[500, 500, 10, 10]), "boxes without area in their image"),
    "box_of_corners": (boxes(lambda x, y, w, h: [x, y, x + w, y + h]), "boxes that reach beyond their image"),
    "boxes_normalized": (boxes(lambda *box: [v / 128 for v in box]), "all 16 boxes are smaller than 2 pixels"),
    "boxes_partly_normalized": (
        lambda content: [a.update(bbox=[v / 128 for v in a["bbox"]]) for a in content["annotations"][:4]],
        "4 of 16 boxes lie within the first pixel of their image: they look normalized",
    ),
    "point_infinite": (first("annotations", segmentation=[[1, 1, math.inf, 9, 9, 9]]), "coordinate inf"),
    "point_null": (first("annotations", segmentation=[[1, 1, None, 9, 9, 9]]), "coordinate None"),
    "point_text": (first("annotations", segmentation=[[1, 1, "x", 9, 9, 9]]), "coordinate 'x'"),
    "point_far": (first("annotations", segmentation=[[1, 1, 1e300, 9, 9, 9]]), "polygons that reach to"),
    "point_far_left": (first("annotations", segmentation=[[1, 1, -5000, 9, 9, 9]]), "polygons that reach to"),
    "points_odd": (first("annotations", segmentation=[[1, 1, 9, 9, 5]]), "a polygon with 5 coordinates"),
    "points_normalized": (outlines(lambda points: [[v / 128 for v in flat(points)]]), "masks without a pixel"),
    "points_of_columns": (outlines(lambda points: [flat([y, x] for x, y in points)]), "that do not fit their box"),
    "masks_text": (first("annotations", segmentation="1,1,9,9"), "segmentation is '1,1,9,9', but must be polygons"),
    "rle_without_size": (first("annotations", segmentation={"counts": RLE["counts"]}), "an RLE is"),
    "rle_of_another_size": (first("annotations", segmentation={**RLE, "size": [64, 128]}), "an RLE of 16384 pixels"),
    "rle_in_lists": (first("annotations", segmentation=[[RLE]]), "RLEs among polygons, or in lists of lists"),
    "rle_and_polygon": (first("annotations", segmentation=[RLE, [1, 1, 9, 1, 9, 9]]), "RLEs among polygons"),
    "polygon_and_rle": (first("annotations", segmentation=[[1, 1, 9, 1, 9, 9], RLE]), "RLEs among polygons"),
}
WARNED = ("box_of_corners", "boxes_", "points_normalized", "points_of_columns")


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_found_and_named_with_its_entry(tmp_path, name):
    change, says = FAULTY[name]
    found = findings(changed(tmp_path, change), masks=True)
    assert re.search(says, found, re.DOTALL), found
    assert found.startswith("warning: " if name.startswith(WARNED) else "error: ")
    assert ".py, line" not in found  # what no message was written for


def test_the_same_ids_are_written_as_were_read(tmp_path):
    config = changed(tmp_path, SOUND["all_ids_negative"])
    dataset = CocoInstances(**config, pipeline=[], test_mode=True)
    metric = CocoMetric(iou_types=["bbox"], results_file=str(tmp_path / "found.json"))
    metric.dataset_meta = dataset.metainfo
    found = InstanceData(bboxes=torch.ones(1, 4), labels=torch.zeros(1, dtype=torch.int64), scores=torch.ones(1))
    metric.process({}, [BaseDataElement(metainfo={"img_id": -6}, pred_instances=found).to_dict()])
    metric.compute_metrics(metric.results)
    (row,) = json.loads((tmp_path / "found.json").read_text())
    assert (row["image_id"], row["category_id"]) == (-6, -5)  # label 0 is the smallest id


def test_a_background_has_an_id_that_no_object_has(tmp_path):
    config = changed(tmp_path, ids(lambda number: number - 3, *CLASSES))  # from 0 on, so that the background has -1
    truth = CocoTable(config["ann_file"]).truth()
    found = [{**item, "score": 1.0} for item in truth["annotations"]]
    images = [image["id"] for image in truth["images"]]
    assert average_precision(truth, found, "bbox", images, (-1, 0, 1, 2)).per_class() == [-1, 1, 1, 1]
