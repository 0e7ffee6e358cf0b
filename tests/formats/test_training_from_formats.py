"""Data of every format with boxes are trained on, evaluated and examined as they are, and all see the same records."""

import json
import math
import multiprocessing
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from format_scenes import BOXES, FORMATS, TRUTH, copy_of
from mmengine.config import Config
from mmengine.structures import InstanceData

from pe_spatial.commands.conversion import stated_classes
from pe_spatial.common.errors import AnnotationError, UserError
from pe_spatial.data import decode_mask
from pe_spatial.data.formats import open_source, read_instances, tables
from pe_spatial.data.formats.writing import write_dataset
from pe_spatial.detection import CocoInstances, CocoMetric
from pe_spatial.detection.checks import CocoFileCheck
from pe_spatial.segmentation.panoptic import InstanceLabels

PARTS = [(name, split, known) for name, (splits, known) in BOXES.items() for split in splits]
each_part = pytest.mark.parametrize(("name", "split", "known"), PARTS)


def truth_as_predictions(part, category_ids):
    """Instances as detections with the score 1."""
    for image in part.images:
        objects = [a for a in part.annotations if a["image_id"] == image["id"]]
        corners = [[x, y, x + width, y + height] for x, y, width, height in (a["bbox"] for a in objects)]
        found = InstanceData(
            bboxes=torch.tensor(corners),
            scores=torch.ones(len(objects)),
            labels=torch.tensor([category_ids.index(a["category_id"]) for a in objects]),
        )
        if all("segmentation" in a for a in objects):
            masks = [decode_mask(a["segmentation"], (image["height"], image["width"])) for a in objects]
            found.masks = torch.from_numpy(np.stack(masks))
        yield {"img_id": image["id"], "pred_instances": found}


@each_part
def test_truth_fed_back_is_perfect(name, split, known):
    part = read_instances(FORMATS / name, split, known)
    kinds = ["bbox", "segm"] if all("segmentation" in a for a in part.annotations) else ["bbox"]
    metric = CocoMetric(iou_types=kinds)
    metric.dataset_meta = CocoInstances(str(FORMATS / name), split=split, format=known).metainfo
    metric.process({}, list(truth_as_predictions(part, metric.dataset_meta["category_ids"])))
    found = metric.compute_metrics(metric.results)
    for kind in kinds:
        precisions = {key: round(value, 12) for key, value in found.items() if key.startswith(f"{kind}_mAP")}
        assert precisions[f"{kind}_mAP"] == precisions[f"{kind}_mAP_75"] == 1
        assert {value for value in precisions.values() if not math.isnan(value)} == {1}  # NaN: no object of that size


@each_part
def test_records_equal_those_of_the_converted_data(tmp_path, name, split, known):
    own = CocoInstances(str(FORMATS / name), split=split, format=known)
    write_dataset({split: read_instances(FORMATS / name, split, known)}, tmp_path / "coco", "coco")
    converted = CocoInstances(
        f"annotations/instances_{split}.json",
        data_root=str(tmp_path / "coco"),
        data_prefix={"img_path": f"images/{split}"},
    )
    assert len(own) == len(converted) > 0
    for record, other in zip(map(own.get_data_info, range(len(own))), converted.data_list, strict=True):
        assert Path(record.pop("img_path")).samefile(other.pop("img_path"))  # a link to it
        assert {key: record[key] for key in other} == other
    for key in converted.metainfo.keys() - {"ann_file", "ann_options"}:
        assert own.metainfo[key] == converted.metainfo[key]


def test_a_file_that_describes_the_data_is_as_good_as_its_folder():
    folder, file = (CocoInstances(str(FORMATS / "yolo_boxes" / end), split="val") for end in ("", "data.yaml"))
    assert folder.get_data_info(0) == file.get_data_info(0)
    single = CocoInstances(str(FORMATS / "label_studio" / "project-1.json"))  # JSON, but not COCO's
    assert single.metainfo["classes"] == ("cat", "dog") and len(single) == len(TRUTH)
    below = CocoInstances(data_root=str(FORMATS / "labelme"))
    assert len(below) == len(TRUTH)


def test_what_was_recognized_is_logged(monkeypatch):
    lines = []
    monkeypatch.setattr("pe_spatial.detection.datasets.print_log", lambda text, **_: lines.append(text))
    CocoInstances(str(FORMATS / "coco_roboflow"), split="train")
    about = "COCO instances, as Roboflow exports them; train of train, valid: 1 images, 2 objects, 2 classes (cat, dog)"
    assert lines == [
        f"{FORMATS / 'coco_roboflow'}: {about}",
        "class left out, because it only groups the others: 1 (pets)",
    ]
    CocoInstances("instances.json", data_root=str(FORMATS / "coco"), data_prefix={"img_path": "images"})
    assert len(lines) == 2  # a plain COCO file needs no words


def test_pictures_may_lie_elsewhere(tmp_path):
    folder = copy_of("voc", tmp_path)
    (tmp_path / "other").mkdir()
    picture = (folder / "JPEGImages/a.jpg").rename(tmp_path / "other/a.jpg")
    (folder / "JPEGImages/a.jpg").symlink_to(picture)
    dataset = CocoInstances("voc", split="train", data_root=str(tmp_path), data_prefix={"img_path": "other"})
    assert dataset.get_data_info(0)["img_path"] == str(picture)


def test_options_of_coco_instances_hold_for_all_formats(tmp_path):
    dataset = CocoInstances(str(FORMATS / "yolo_cvat"), metainfo={"classes": ["dog"]}, keep_empty=False)
    assert dataset.metainfo["classes"] == ("dog",) and len(dataset) == 1 and dataset.class_counts() == {"dog": 1}
    folder = copy_of("coco_cvat", tmp_path)
    (folder / "images/default/a.jpg").unlink()
    with pytest.raises(AnnotationError, match="1 of 2 images are not in their folder"):
        CocoInstances(str(folder))
    assert len(CocoInstances(str(folder), missing="drop")) == 1


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("yolo_boxes", {}, "has the splits train, val; choose one of them"),
        ("yolo_boxes", {"split": "vall"}, "has no split 'vall'; did you mean 'val'"),
        ("yolo_boxes", {"format": "yollo"}, "format 'yollo' is not one of coco, yolo"),
        ("yolo_boxes", {"format": "voc"}, "contains no dataset in the format voc"),
        ("panoptic", {}, "has no boxes; CocoPanoptic reads it"),
        ("absent", {"split": "train"}, "no such file or folder; check data_root and ann_file"),
        ("absent.json", {}, "no such annotation file; check data_root and ann_file"),
        ("README.md", {}, "contains no dataset of a known format"),
        ("coco/instances.json", {}, "are not in their folder.*or set format: coco, which looks for them"),
    ],
)
def test_mistakes_are_named(path, options, message):
    with pytest.raises(UserError, match=message) as error:
        CocoInstances(path, data_root=str(FORMATS), **options)
    assert "\n" not in str(error.value)


def test_a_dataset_of_nothing_is_refused():
    with pytest.raises(AnnotationError, match="CocoInstances has no ann_file"):
        CocoInstances()
    assert len(CocoInstances(str(FORMATS / "coco/instances.json"), format="coco")) == 2


def test_label_maps_evaluation_and_doctor_open_the_same_table():
    source = {"type": "CocoInstances", "ann_file": str(FORMATS / "yolo_polygons"), "split": "train"}
    labels = InstanceLabels(source)
    assert labels.metainfo["ann_options"] == {"split": "train", "format": None}
    metric = CocoMetric()
    metric.dataset_meta = labels.metainfo
    assert len(metric.truth("segm")["annotations"]) == 2
    assert CocoFileCheck.concerns(labels, labels.get_data_info(0))
    assert not list(CocoFileCheck(labels).inspect_annotations())


def test_annotation_ids_that_repeat_are_a_finding(tmp_path):
    folder = copy_of("coco", tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["id"] = content["annotations"][1]["id"]
    (folder / "instances.json").write_text(json.dumps(content))
    (finding,) = CocoFileCheck(CocoInstances(str(folder))).inspect_annotations()
    assert (finding.level, finding.rule) == ("warning", "annotation ids are used more than once")
    assert finding.example.startswith("1 of 3: handled here")


def test_a_coco_file_may_have_any_suffix(tmp_path):
    folder = copy_of("coco", tmp_path)
    (folder / "instances.json").rename(folder / "annotations")
    dataset = CocoInstances("annotations", data_root=str(folder), data_prefix={"img_path": "images"})
    assert len(dataset) == len(TRUTH) and open_source(dataset.ann_file).about == ""


def test_classes_of_a_checkpoint_come_from_any_format():
    dataset = {"type": "CocoInstances", "ann_file": str(FORMATS / "yolo_boxes"), "split": "train"}
    config = Config({"model": {"num_classes": 2}, "train_dataloader": {"dataset": dataset}})
    assert stated_classes(config) == {"classes": ["cat", "dog"], "category_ids": [1, 2]}


# --- the cache --------------------------------------------------------------------------------------------------------
@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Every table is kept, here."""
    monkeypatch.setenv("PE_SPATIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_MANY", 0)
    return tmp_path / "cache" / "annotations"


def first_image(folder):
    return CocoInstances(str(folder), split="train").get_data_info(0)


def test_what_takes_long_is_read_once_by_all_processes(tmp_path, cached, monkeypatch):
    folder = copy_of("yolo_boxes", tmp_path)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(first_image, [folder] * 2)
    assert first == second and len(list(cached.glob("*-*"))) == 1
    monkeypatch.setattr(tables, "gather_lists", None)
    assert first_image(folder) == first
    moved = pickle.dumps(open_source(folder, "train").table)
    assert len(moved) < 2000


@pytest.mark.parametrize("file", ["labels/train/a.txt", "images/train/a.jpg", "data.yaml"])
def test_a_change_of_any_file_is_seen(tmp_path, cached, file):
    folder = copy_of("yolo_boxes", tmp_path)
    before = first_image(folder)
    if file.endswith(".jpg"):
        (folder / file).rename(folder / "images/train/a.jpeg")
    else:
        text = (folder / file).read_text()
        (folder / file).write_text(re.sub("cat", "lynx", text) if file.endswith("yaml") else text.splitlines()[0])
    after = CocoInstances(str(folder), split="train")
    assert (after.get_data_info(0), after.metainfo["classes"]) != (before, ("cat", "dog"))
    assert len(list(cached.glob("*-*"))) == 1


def test_a_fault_is_no_matter_of_the_cache(tmp_path, cached, recwarn):
    folder = copy_of("voc", tmp_path)
    (folder / "Annotations/a.xml").write_text("<annotation")
    with pytest.raises((AnnotationError, OSError), match=r"a\.xml"):
        CocoInstances(str(folder), split="train")
    assert not recwarn.list and not list(cached.glob("*-*"))
