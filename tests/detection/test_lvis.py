import json
from pathlib import Path

import pytest
import torch
from coco_scenes import random_coco, write_coco

from pe_spatial.detection import LvisInstances, LvisMetric, RepeatFactorSampler
from pe_spatial.detection.sampling import repeat_factors


@pytest.fixture
def content():
    """As LVIS has it: images named by address, frequencies, classes known to be absent or incompletely drawn."""
    content = random_coco(0, crowds=0)
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({2, 5, 9} - present)
        image["not_exhaustive_category_ids"] = []
    for category, frequency in zip(content["categories"], "rcf", strict=True):
        category["frequency"] = frequency
        category["image_count"] = 1
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    return content


@pytest.fixture
def arguments(tmp_path, content):
    named = {**content, "images": [{**i, "file_name": i["coco_url"].split("/")[-1]} for i in content["images"]]}
    write_coco(tmp_path, named)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return {"ann_file": "instances.json", "data_root": str(tmp_path), "data_prefix": {"img_path": ""}}


def rewrite(arguments, content):
    (Path(arguments["data_root"]) / arguments["ann_file"]).write_text(json.dumps(content))


def test_the_frequency_of_every_class_is_known(arguments):
    assert LvisInstances(**arguments).metainfo["frequency"] == ("c", "f", "r")


def perfect(content):
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [float(v) for v in a["bbox"]],
            "score": 0.5,
        }
        for a in content["annotations"]
    ]


@pytest.fixture
def score(arguments, content):
    def run(rows):
        metric = LvisMetric(iou_types=("bbox",))
        metric.dataset_meta = LvisInstances(**arguments).metainfo
        return metric.score(rows, [image["id"] for image in content["images"]])

    return run


def test_truth_scores_one_in_every_frequency_group(score, content):
    metrics = score(perfect(content))
    assert [metrics[f"bbox_AP{group}"] for group in ("", "r", "c", "f")] == [1, 1, 1, 1]


def test_nothing_found_scores_zero(score):
    assert score([])["bbox_AP"] == 0


def false_alarm(image, category):
    return {"image_id": image["id"], "category_id": category, "bbox": [0.0, 0.0, 3.0, 3.0], "score": 0.9}


def test_only_classes_known_to_be_absent_make_a_detection_false(score, content, arguments):
    empty = content["images"][-1]
    assert score([*perfect(content), false_alarm(empty, 2)])["bbox_AP"] < 1
    empty["neg_category_ids"] = []
    rewrite(arguments, content)
    assert score([*perfect(content), false_alarm(empty, 2)])["bbox_AP"] == 1


def test_repeat_factors_by_hand():
    # class 0 is in 4 of 4 images, class 1 in 1 of 4: sqrt(1 / (1/4)) = 2
    factors = repeat_factors([[0], [0], [0, 1], [0]], threshold=1.0)
    assert factors.tolist() == [1, 1, 2, 1]
    assert repeat_factors([[], [0]], threshold=0.001).tolist() == [1, 1]


class Labels:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def test_rare_images_come_more_often():
    """Class 1 is in 10 of 100 images: with a threshold of 0.225 they come 1.5 times."""
    sampler = RepeatFactorSampler(Labels([[0]] * 90 + [[0, 1]] * 10), threshold=0.225, seed=3)
    epochs = [sampler.epoch_indices(epoch) for epoch in range(200)]
    counts = torch.bincount(torch.tensor([i for epoch in epochs for i in epoch]), minlength=100)
    assert (counts[:90] == 200).all()
    assert counts[90:].float().mean().item() == pytest.approx(300, rel=0.03)
    assert epochs[0] == sampler.epoch_indices(0) and epochs[0] != epochs[1]


def test_the_stream_is_cut_at_any_position():
    sampler = RepeatFactorSampler(Labels([[0]] * 5 + [[0, 1]]), threshold=0.5, seed=0)
    stream = iter(sampler)
    draws = [next(stream) for _ in range(30)]
    sampler.skip(11)
    resumed = iter(sampler)
    assert [next(resumed) for _ in range(19)] == draws[11:]


def test_a_threshold_is_a_fraction():
    with pytest.raises(ValueError, match="threshold 0 is not a fraction"):
        RepeatFactorSampler(Labels([[0]]), threshold=0)
