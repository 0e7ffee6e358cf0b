"""Samples print in a few lines, draw themselves, and turn into COCO's rows and supervision's arrays."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image

from pe_spatial.common.errors import UserError
from pe_spatial.data import decode_mask
from pe_spatial.inference.sample import PredictedSample, instance_rows
from pe_spatial.visualization import draw_prediction

SIZE = (20, 30)
DATASET = {"classes": ("cat", "dog", "bird"), "category_ids": (1, 17, 90)}
IMAGE = torch.arange(3 * 20 * 30).reshape(3, 20, 30).to(torch.uint8)


def make(image=IMAGE, dataset=DATASET, metainfo=None, **fields):
    metainfo = {"img_path": "/photos/park.jpg", "ori_shape": SIZE, **(metainfo or {})}
    return PredictedSample.of(BaseDataElement(metainfo=metainfo, **fields), image, dataset)


def instances(masks=True, count=2):
    boxes = torch.tensor([[1.0, 2, 11, 7.5], [3, 3, 9, 19]]).repeat(count, 1)[:count]
    columns = {"bboxes": boxes, "labels": torch.tensor([2, 1]).repeat(count)[:count]}
    columns["scores"] = torch.linspace(0.25, 0.97, count)
    if masks:
        columns["masks"] = torch.zeros(count, *SIZE, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(columns["masks"], boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = True
    return InstanceData(**columns)


# --- text -------------------------------------------------------------------------------------------------------------
def test_instances_print_best_first_with_names():
    assert str(make(pred_instances=instances())).splitlines() == [
        "park.jpg: 20 x 30 pixels (H x W)",
        "2 instances:",
        "  dog 0.97 [3.0, 3.0, 9.0, 19.0]",
        "  bird 0.25 [1.0, 2.0, 11.0, 7.5]",
    ]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 300])
def test_no_sample_prints_more_than_eight_lines(count):
    depth = PixelData(data=torch.ones(1, *SIZE))
    for more in ({}, {"pred_depth": depth}):
        lines = repr(make(pred_instances=instances(count=count), **more)).splitlines()
        assert len(lines) <= 8
        named = [line for line in lines if "[" in line]
        rest = 0 if "more" not in lines[-1] else int(lines[-1].split()[2])
        assert len(named) + rest == count
        assert f"{count} instance" in "\n".join(lines)


def test_classes_print_with_their_share_of_the_pixels():
    labels = torch.full((1, *SIZE), 255)
    labels[:, :, :6], labels[:, :10, 6:9] = 1, 0
    text = str(make(pred_sem_seg=PixelData(data=labels)))
    assert text.splitlines()[1] == "2 classes: dog 20.0%, cat 5.0%"


def test_segments_and_depth_print():
    ids = torch.zeros(1, *SIZE, dtype=torch.int32)
    ids[:, :5], ids[:, 5:8] = 1, 2
    segments = [{"id": 1, "label": 2, "area": 150, "score": 0.9}, {"id": 2, "label": 2, "area": 90, "score": 0.8}]
    text = str(make(metainfo={"segments": segments}, pred_panoptic=PixelData(data=ids)))
    assert text.splitlines()[1] == "2 segments: bird 40.0%"
    depth = PixelData(data=torch.linspace(0.5, 8, 600).reshape(1, *SIZE))
    assert str(make(pred_depth=depth)).splitlines()[1] == "depth: 0.5 to 8 m"
    relative = make(metainfo={"depth_is_metric": False}, pred_depth=depth)
    assert str(relative).splitlines()[1] == "relative depth: 0.5 to 8, no unit"


def test_a_sample_without_names_and_path_prints():
    sample = make(dataset={}, metainfo={"img_path": None}, pred_instances=instances())
    assert str(sample).splitlines()[0] == "image: 20 x 30 pixels (H x W)"
    assert "class 1 0.97" in str(sample)


# --- a data sample ----------------------------------------------------------------------------------------------------
def test_it_stays_a_data_sample_with_its_image():
    sample = make(pred_instances=instances())
    for same in (sample.cpu(), sample.to("cpu"), sample.detach(), sample.clone(), copy.deepcopy(sample)):
        assert isinstance(same, PredictedSample)
        assert same.metainfo == sample.metainfo
        assert list(same.keys()) == ["pred_instances"]
        assert torch.equal(same.image, IMAGE)
        assert same.dataset == DATASET
        assert str(same) == str(sample)
    assert sample.cpu().image is IMAGE
    assert torch.equal(pickle.loads(pickle.dumps(sample)).image, IMAGE)  # noqa: S301 - our own


def test_filter_keeps_what_reaches_the_threshold():
    sample = make(pred_instances=instances(), pred_depth=PixelData(data=torch.ones(1, *SIZE)))
    kept = sample.filter(0.5)
    assert kept.pred_instances.labels.tolist() == [1]
    assert "pred_depth" in kept
    assert (sample.threshold, kept.threshold, len(sample.pred_instances)) == (None, 0.5, 2)
    assert len(sample.filter(float(sample.pred_instances.scores[0])).pred_instances) == 2  # itself reaches it
    with pytest.raises(UserError, match="threshold 1.5"):
        sample.filter(1.5)


# --- pictures ---------------------------------------------------------------------------------------------------------
def test_drawing_is_that_of_every_other_door():
    sample = make(pred_instances=instances())
    drawn = sample.draw()
    assert drawn.dtype == np.uint8 and drawn.shape[2] == 3
    for threshold, mine in ((0.5, drawn), (0.1, sample.draw(0.1)), (0.2, sample.filter(0.2).draw())):
        expected = draw_prediction(IMAGE, sample, DATASET, threshold)
        assert np.array_equal(mine, expected.permute(1, 2, 0).numpy())
    assert not np.array_equal(drawn, sample.draw(0.1))


def test_saved_pictures_are_the_drawn_ones(tmp_path):
    sample = make(pred_instances=instances())
    path = sample.save(tmp_path / "drawn.png", threshold=0.1)
    with Image.open(path) as picture:
        assert np.array_equal(np.array(picture), sample.draw(0.1))
    assert sample.save(str(tmp_path / "drawn.JPG")).stat().st_size > 0
    with pytest.raises(UserError, match=r"drawn\.txt ends in '\.txt'.*\.png"):
        sample.save(tmp_path / "drawn.txt")
    with pytest.raises(UserError, match="park.jpg has no image"):
        make(image=None, pred_instances=instances()).draw()
    assert len(list(tmp_path.iterdir())) == 2


# --- other formats ----------------------------------------------------------------------------------------------------
def test_coco_rows_have_the_ids_of_the_training_data():
    sample = make(pred_instances=instances())
    rows = sample.to_coco(7)
    assert [row["image_id"] for row in rows] == [7, 7]
    assert [row["category_id"] for row in rows] == [90, 17]
    assert rows[0]["bbox"] == [1, 2, 10, 5.5]
    assert rows[1]["score"] == 0.97
    for row, mask in zip(rows, sample.pred_instances.masks, strict=True):
        assert np.array_equal(decode_mask(row["segmentation"], SIZE), mask.numpy())
        assert row["area"] == mask.sum()
    plain = make(dataset={"classes": ("a", "b", "c")}, pred_instances=instances(masks=False)).to_coco(1)
    assert [row["category_id"] for row in plain] == [3, 2]
    assert [row["area"] for row in plain] == [55, 96]
    assert "segmentation" not in plain[0]
    assert make(pred_instances=instances(count=0)).to_coco(1) == []


def test_coco_rows_are_scored_as_perfect(tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    rows = make(pred_instances=instances()).to_coco(7)
    truth = {
        "images": [{"id": 7, "height": 20, "width": 30, "file_name": "park.jpg"}],
        "categories": [{"id": id, "name": str(id)} for id in (17, 90)],
        "annotations": [{"id": n, "iscrowd": 0, **row} for n, row in enumerate(rows, start=1)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    coco = hotcoco.COCO(str(tmp_path / "truth.json"))
    for kind in ("bbox", "segm"):
        evaluation = hotcoco.COCOeval(coco, coco.load_res(rows), kind)
        evaluation.run()
        assert evaluation.stats[0] == pytest.approx(1)


def test_arrays_have_the_names_and_types_of_supervision():
    arrays = make(pred_instances=instances()).to_arrays()
    assert {key: (value.dtype.kind, value.shape) for key, value in arrays.items() if key != "data"} == {
        "xyxy": ("f", (2, 4)),
        "mask": ("b", (2, *SIZE)),
        "confidence": ("f", (2,)),
        "class_id": ("i", (2,)),
    }
    assert arrays["data"]["class_name"].tolist() == ["bird", "dog"]
    empty = make(pred_instances=instances(masks=False, count=0)).to_arrays()
    assert empty["mask"] is None
    assert empty["xyxy"].shape == (0, 4)
    assert empty["data"]["class_name"].shape == (0,)


def test_supervision_takes_them_or_is_asked_for(monkeypatch):
    sample = make(pred_instances=instances())
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        sample.to_supervision()
    monkeypatch.undo()
    supervision = pytest.importorskip("supervision")
    detections = sample.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections[detections.confidence > 0.5].data["class_name"].tolist() == ["dog"]


def test_a_sample_without_instances_says_what_it_holds():
    sample = make(pred_depth=PixelData(data=torch.ones(1, *SIZE)))
    for turn in (lambda: sample.to_coco(1), sample.to_arrays, sample.to_supervision):
        with pytest.raises(UserError, match="park.jpg has no instances; it holds pred_depth"):
            turn()


def test_rows_can_be_written_as_json():
    rows = instance_rows(instances())
    assert json.loads(json.dumps(rows)) == rows
    assert list(rows[0]) == ["label", "bbox", "score", "area", "segmentation"]
