"""Segments and painted instances: who owns a pixel, which objects a sample has, and what contradicts itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from object_files import SIZE, box, instances, panoptic

import pe_spatial.data  # noqa: F401 - registers the loaders
import pe_spatial.detection  # noqa: F401 - registers CocoInstances
from pe_spatial.common.errors import AnnotationError
from pe_spatial.data import boxes_of_masks
from pe_spatial.segmentation import CocoPanoptic, COCOStuff, InstanceLabels

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


# --- COCO's panoptic format -------------------------------------------------------------------------------------------
def scene():
    """Sky above, two cats that touch, a crowd of cats, and a strip without a label."""
    ids = np.zeros(SIZE, int)
    ids[:6] = 70000
    ids[box(0, 6, 4, 9)] = 1
    ids[box(4, 6, 9, 9)] = 300
    ids[box(9, 6, 16, 9)] = 5
    segments = [
        {"id": 1, "category_id": 3, "iscrowd": 0},
        {"id": 70000, "category_id": 7, "iscrowd": 0},
        {"id": 300, "category_id": 3, "iscrowd": 0},
        {"id": 5, "category_id": 3, "iscrowd": 1},
    ]
    return ids, segments


def test_segments_become_a_label_map_things_and_crowds(tmp_path):
    ids, segments = scene()
    dataset = panoptic(tmp_path, [(ids, segments)])
    assert dataset.metainfo["classes"] == ("cat", "sky")  # in the order of the ids
    assert dataset.metainfo["is_thing"] == (True, False)
    assert dataset.metainfo["palette"][1] == [1, 2, 3]
    sample = dataset[0]["data_samples"]
    labels = sample.gt_sem_seg.data[0].numpy()
    assert (labels == np.select([ids == 70000, ids > 0], [1, 0], 255)).all()
    assert sample.gt_instances.labels.tolist() == [0, 0]  # stuff is no instance
    assert (sample.gt_instances.masks.numpy() == np.stack([ids == 1, ids == 300])).all()
    assert torch.equal(sample.gt_instances.bboxes, boxes_of_masks(sample.gt_instances.masks))
    assert (sample.ignored_instances.masks.numpy() == (ids == 5)[None]).all()
    assert sample.ignored_instances.labels.tolist() == [0]


def test_an_image_without_things_has_empty_instances(tmp_path):
    dataset = panoptic(tmp_path, [(np.full(SIZE, 9), [{"id": 9, "category_id": 7}])])
    sample = dataset[0]["data_samples"]
    assert sample.gt_instances.masks.shape == (0, *SIZE)
    assert sample.gt_instances.bboxes.shape == (0, 4)


def test_several_segments_of_one_stuff_class_are_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("pe_spatial.segmentation.panoptic.print_log", lambda text, **_: said.append(text))
    panoptic(tmp_path, [scene()])
    assert not said
    panoptic(tmp_path, [(np.ones(SIZE, int), [{"id": n, "category_id": 7} for n in (1, 2)])])
    assert "1 images list several segments of one stuff class (1.png)" in said[0]


def test_files_that_contradict_each_other_are_named(tmp_path):
    ids, segments = scene()
    dataset = panoptic(tmp_path, [(ids, segments[1:])])
    with pytest.raises(AnnotationError, match=r"1\.png: segment 1 \(12 pixels\) is not among the 3 segments"):
        dataset[0]
    with pytest.raises(AnnotationError, match="1 of 1 segments have a category_id that is not in the file"):
        panoptic(tmp_path, [(ids, [{"id": 1, "category_id": 4}])])
    (tmp_path / "panoptic.json").write_text(json.dumps({"images": [], "annotations": [{}], "categories": []}))
    with pytest.raises(AnnotationError, match="annotation number 1 of the list: image_id is missing"):
        CocoPanoptic(ann_file=str(tmp_path / "panoptic.json"))
    with pytest.raises(AnnotationError, match="no such annotation file"):
        CocoPanoptic(ann_file=str(tmp_path / "gone.json"))


# --- instances --------------------------------------------------------------------------------------------------------
LARGE, SMALL, CROWD = box(0, 0, 10, 10), box(2, 2, 5, 5), box(0, 0, 16, 12)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_smallest_object_is_on_top_and_crowds_below_all(tmp_path, order):
    objects = [(5, LARGE, False), (2, SMALL, False), (2, CROWD, True)]
    dataset = instances(tmp_path, [objects[n] for n in order], load={"instances": True})
    assert dataset.metainfo["classes"] == ("background", "cat", "dog")
    assert dataset.metainfo["is_thing"] == (False, True, True)
    sample = dataset[0]["data_samples"]
    assert (sample.gt_sem_seg.data[0].numpy() == np.where(SMALL, 1, np.where(LARGE, 2, 1))).all()
    masks = dict(zip(sample.gt_instances.labels.tolist(), sample.gt_instances.masks.numpy(), strict=True))
    assert (masks[1] == SMALL).all()
    assert (masks[2] == LARGE & ~SMALL).all()  # no pixel has two owners
    assert (sample.ignored_instances.masks.numpy() == (CROWD & ~LARGE)[None]).all()


def test_hidden_objects_are_left_out(tmp_path):
    halves = [(2, box(0, 0, 5, 8), False), (2, box(5, 0, 10, 8), False)]
    sample = instances(tmp_path, [(5, box(0, 0, 10, 8), False), *halves], load={"instances": True})[0]["data_samples"]
    assert sample.gt_instances.labels.tolist() == [1, 1]


@pytest.mark.parametrize(("background", "first", "outside"), [("background", 1, 0), (None, 0, 255)])
def test_pixels_without_an_instance_are_background_or_unlabeled(tmp_path, background, first, outside):
    dataset = instances(tmp_path, [(2, SMALL, False)], background)
    assert len(dataset.metainfo["palette"]) == len(dataset.metainfo["classes"]) == 2 + first
    sample = dataset[0]["data_samples"]
    assert (sample.gt_sem_seg.data[0].numpy() == np.where(SMALL, first, outside)).all()
    assert "gt_instances" not in sample


def test_label_maps_hold_at_most_255_classes(tmp_path):
    dataset = instances(tmp_path, [(2, SMALL, False)])
    content = json.loads((tmp_path / "instances.json").read_text())
    content["categories"] += [{"id": number, "name": f"class {number}"} for number in range(6, 260)]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"instances\.json: 257 classes; label maps can have 1 to 255"):
        InstanceLabels(dataset.source)


def test_label_maps_need_masks(tmp_path):
    dataset = instances(tmp_path, [(2, SMALL, False)])
    content = json.loads((tmp_path / "instances.json").read_text())
    del content["annotations"][0]["segmentation"]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"instances\.json: no instance has a mask"):
        InstanceLabels(dataset.source)


def test_coco_tiny_becomes_label_maps():
    folder = SHARED / "coco_tiny"
    if not folder.is_dir():
        pytest.skip("../shared/data/coco_tiny is not there")
    source = {
        "type": "CocoInstances",
        "data_root": str(folder),
        "ann_file": "annotations/instances_val2017.json",
        "data_prefix": {"img_path": "val2017"},
    }
    steps = [{"type": "LoadImage"}, {"type": "LoadInstanceLabels", "instances": True}, {"type": "PackSample"}]
    dataset = InstanceLabels(source, pipeline=steps)
    assert dataset.metainfo["classes"][1:] == COCOStuff.METAINFO["classes"][:80]
    for index in range(0, len(dataset), 8):
        sample = dataset[index]["data_samples"]
        objects, labels = sample.gt_instances, sample.gt_sem_seg.data[0]
        assert labels.shape == sample.ori_shape
        assert objects.masks.sum(0).max() <= 1
        for label, mask in zip(objects.labels, objects.masks, strict=True):
            assert (labels[mask] == label).all()
        covered = objects.masks.any(0) | sample.ignored_instances.masks.any(0)
        assert ((labels != 0) == covered).all()
