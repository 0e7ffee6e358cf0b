import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_scenes import random_coco, write_coco
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pe_spatial.data import decode_mask, encode_masks
from pe_spatial.detection import CocoInstances, CocoMetric

TINY = Path(__file__).parents[2].parent / "shared" / "data" / "coco_tiny"


def build(folder, content, **options):
    metric = CocoMetric(**options)
    metric.dataset_meta = CocoInstances(**write_coco(folder, content)).metainfo
    return metric


def prediction(img_id, bboxes, scores, labels, masks):
    found = InstanceData(
        bboxes=torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
    )
    return {"img_id": img_id, "pred_instances": found}


def empty_prediction(image):
    return prediction(image["id"], [], [], [], torch.zeros(0, image["height"], image["width"], dtype=torch.bool))


def feed_back(metric, content):
    """The truth as detections, crowds left out."""
    label_of = {number: label for label, number in enumerate(metric.dataset_meta["category_ids"])}
    samples = []
    for image in content["images"]:
        size = image["height"], image["width"]
        objects = [a for a in content["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        if not objects:
            samples.append(empty_prediction(image))
            continue
        masks = torch.from_numpy(np.stack([decode_mask(a["segmentation"], size) for a in objects]))
        boxes = [
            [a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in objects
        ]
        samples.append(
            prediction(image["id"], boxes, [1.0] * len(boxes), [label_of[a["category_id"]] for a in objects], masks)
        )
    metric.process({}, samples)
    return metric.compute_metrics(metric.results)


def noisy_results(content, seed, kind):
    """Detections near the truth with tied scores, wrong classes, duplicates and images without any."""
    rng = np.random.default_rng(seed)
    rows = []
    for a in content["annotations"]:
        if a["image_id"] == content["images"][1]["id"]:
            continue
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = (np.array(a["bbox"]) + rng.integers(-3, 4, 4)).tolist()
            x, y, w, h = max(x, 0), max(y, 0), max(w, 1), max(h, 1)
            category = int(rng.choice([9, 2, 5])) if rng.random() < 0.2 else a["category_id"]
            row = {"image_id": a["image_id"], "category_id": category, "score": float(rng.integers(1, 6)) / 5}
            if kind == "bbox":
                row["bbox"] = [float(v) for v in (x, y, w, h)]
            else:
                mask = torch.zeros(60, 80, dtype=torch.bool)
                mask[y : y + h, x : x + w] = True
                row["segmentation"] = encode_masks(mask[None])[0]
            rows.append(row)
    return rows


def reference_stats(content, rows, kind):
    """pycocotools as its own examples use it."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(content))
        for annotation in truth.dataset["annotations"]:
            annotation["id"] += 1
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(json.loads(json.dumps(rows))), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers_are_those_of_pycocotools(tmp_path, kind):
    for seed in range(8):
        content = random_coco(seed)
        rows = noisy_results(content, seed, kind)
        metric = build(tmp_path / str(seed), content, iou_types=(kind,))
        metrics = metric.score(rows, [image["id"] for image in content["images"]])
        np.testing.assert_allclose(list(metrics.values()), reference_stats(content, rows, kind), atol=1e-12)


def test_annotations_as_detections_are_perfect(tmp_path):
    metrics = feed_back(build(tmp_path, random_coco(1)), random_coco(1))
    for kind in ("bbox", "segm"):
        assert metrics[f"{kind}_mAP"] == metrics[f"{kind}_AR_max"] == 1.0


@pytest.mark.skipif(not TINY.is_dir(), reason=f"real images are not at {TINY}")
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_annotations_as_detections_are_perfect(split):
    content = json.loads((TINY / "annotations" / f"instances_{split}.json").read_text())
    data = CocoInstances(
        ann_file=f"annotations/instances_{split}.json", data_root=str(TINY), data_prefix={"img_path": split}
    )
    metric = CocoMetric()
    metric.dataset_meta = data.metainfo
    assert len(data.metainfo["classes"]) == 80
    metrics = feed_back(metric, content)
    assert metrics["bbox_mAP"] == pytest.approx(1, abs=5e-4)
    assert metrics["segm_mAP"] == pytest.approx(1, abs=5e-4)


def test_no_detection_at_all_scores_zero(tmp_path):
    content = random_coco(2)
    metric = build(tmp_path, content)
    metric.process({}, [empty_prediction(image) for image in content["images"]])
    metrics = metric.compute_metrics(metric.results)
    assert metrics["bbox_mAP"] == metrics["segm_mAP"] == metrics["segm_AR_max"] == 0


def test_one_of_two_objects_by_hand(tmp_path):
    """Precision is 1 up to a recall of one half: 51 of 101 recall levels are reached."""
    content = random_coco(0, images=2, crowds=0)
    content["annotations"] = [
        {**content["annotations"][0], "id": number, "category_id": 2, "bbox": box, "area": 100}
        for number, box in enumerate(([0, 0, 10, 10], [30, 30, 10, 10]))
    ]
    metric = build(tmp_path, content, iou_types=("bbox",), per_class=True)
    row = {"image_id": 10, "category_id": 2, "bbox": [0.0, 0, 10, 10], "score": 0.9}
    metrics = metric.score([row], [10, 13])
    assert metrics["bbox_mAP"] == pytest.approx(51 / 101)
    assert metrics["bbox_AR_max"] == 0.5
    assert metrics["bbox_AP/car"] == pytest.approx(51 / 101)
    assert metrics["bbox_AP/dog"] == -1
    # of the image without it alone nothing is defined
    assert metric.score([row], [13])["bbox_mAP"] == -1


def test_an_image_that_two_processes_scored_counts_once(tmp_path):
    content = random_coco(3, crowds=0)
    metric = build(tmp_path, content)
    feed_back(metric, content)
    once = metric.compute_metrics(metric.results)
    twice = metric.compute_metrics(metric.results + metric.results)
    assert once == twice and once["bbox_mAP"] == 1


def test_results_file_is_what_coco_tools_read(tmp_path):
    content = random_coco(4)
    path = tmp_path / "results" / "detections.json"
    metrics = feed_back(build(tmp_path / "data", content, results_file=str(path)), content)
    rows = json.loads(path.read_text())
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    boxes = [{key: value for key, value in row.items() if key != "segmentation"} for row in rows]
    assert reference_stats(content, boxes, "bbox")[0] == pytest.approx(metrics["bbox_mAP"])
    assert not list(path.parent.glob("*.partial"))


def test_areas_and_crowd_flags_may_be_missing(tmp_path):
    content = random_coco(5, crowds=0)
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metric = build(tmp_path, content)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 0
    assert feed_back(metric, content)["bbox_mAP"] == 1


def test_classes_that_were_left_out_do_not_count(tmp_path):
    content = random_coco(6, crowds=0)
    metric = CocoMetric(iou_types=("bbox",))
    data = CocoInstances(**write_coco(tmp_path, content), metainfo={"classes": ["tree"]})
    metric.dataset_meta = data.metainfo
    rows = [
        {"image_id": a["image_id"], "category_id": 9, "bbox": [float(v) for v in a["bbox"]], "score": 1.0}
        for a in content["annotations"]
        if a["category_id"] == 9
    ]
    assert metric.score(rows, [image["id"] for image in content["images"]])["bbox_mAP"] == 1


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="iou_types"):
        CocoMetric(iou_types=("box",))
    with pytest.raises(ValueError, match="'ann_file' in the dataset's metainfo"):
        CocoMetric().truth("bbox")


# --- what it explains -------------------------------------------------------------------------------------------------
def explained(folder, content, prediction_of):
    """The metric after an evaluation with images on the disk."""
    metric = build(folder, content)
    for image in content["images"]:
        path = str(folder / "images" / image["file_name"])
        metric.process({}, [{**prediction_of(image), "img_path": path}])
    return metric, metric.evaluate(len(content["images"]))


def true_of(content, count=None):
    """Predicts the first objects of an image as they are, and nothing else."""
    labels = {9: 2, 2: 0, 5: 1}

    def predict(image):
        rows = [a for a in content["annotations"] if a["image_id"] == image["id"]][:count]
        if not rows:
            return empty_prediction(image)
        masks = torch.from_numpy(np.stack([decode_mask(a["segmentation"], (60, 80)) for a in rows]))
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in rows)]
        return prediction(image["id"], boxes, [0.9] * len(rows), [labels[a["category_id"]] for a in rows], masks)

    return predict


def test_what_is_undefined_is_nan_and_a_dash_in_the_table(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("pe_spatial.detection.metrics.print_log", lambda text, **_: said.append(text))
    content = random_coco(0, crowds=0)
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 5 and a["area"] < 1024]
    metric, metrics = explained(tmp_path, content, true_of(content))
    assert np.isnan(metrics["coco/bbox_mAP_l"]) and metrics["coco/bbox_mAP_s"] == 1
    assert "-1" not in "".join(said) and "–" in said[0]
    assert metric.explanation.classes.record()["bbox_AP"] == {"car": 1.0, "dog": None, "tree": 1.0}


def test_perfect_detections_leave_the_diagonal_alone(tmp_path):
    content = random_coco(1, crowds=0)
    metric, _ = explained(tmp_path, content, true_of(content))
    known = metric.explanation
    assert np.array_equal(known.confusion.counts, np.diag([*known.classes.counts, 0]))
    assert sum(known.classes.counts) == len(content["annotations"])
    assert {case.score for case in [*known.ranking.best, *known.ranking.worst]} == {1.0}


def test_images_are_ranked_by_f1_and_drawn(tmp_path):
    """One object of each image is found, so that images with many objects are the worst."""
    content = random_coco(2, crowds=0)
    metric, _ = explained(tmp_path, content, true_of(content, count=1))
    numbers = {
        str(tmp_path / "images" / image["file_name"]): sum(a["image_id"] == image["id"] for a in content["annotations"])
        for image in content["images"]
    }
    ends = metric.explanation.ranking
    cases = [*ends.best, *ends.worst[::-1]]
    assert [case.score for case in cases] == sorted((2 / (1 + n) for n in numbers.values() if n), reverse=True)
    assert all(case.score == 2 / (1 + numbers[case.path]) for case in cases)
    picture = ends.worst[0].draw(torch.zeros(3, 60, 80, dtype=torch.uint8))
    assert picture.dtype == torch.uint8 and picture.shape[2] == 2 * 640 + 8  # two panels of eight times the size
    colors = picture.flatten(1).unique(dim=1).T.tolist()
    assert [0, 158, 115] in colors and [240, 228, 66] in colors and [213, 94, 0] not in colors  # nothing is invented
