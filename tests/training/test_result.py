"""What a run leaves to be read: the sentence, the curves, pictures beside their annotation, and undefined numbers."""

import json
import math
import shutil

import pytest
import torch
import toy_task
from coco_scenes import random_coco
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image
from test_metrics import build, true_of

from pe_spatial.data import PackSample
from pe_spatial.detection import CocoInstances
from pe_spatial.training.launch import train
from pe_spatial.training.picture_hook import PictureHook, labels_of
from pe_spatial.training.progress import read_metrics
from pe_spatial.training.result import numbers
from pe_spatial.training.result_pictures import draw_confusion, draw_curves, draw_ranking, reader_of


def test_the_page_opens_with_the_main_number(finished):
    _, run = finished
    score = json.loads((run / "result.json").read_text())["metrics"]["toy/score"]
    first, *_, last = (run / "RESULT.md").read_text().splitlines()
    assert first.startswith(
        f"ToyModel reached toy/score {score:.4f} on 12 validation images after 6 iterations (best at"
    )
    assert last.startswith("* git_revision")


def test_curves_are_drawn(finished, tmp_path, drawn_charts):
    records = [json.loads(line) for line in (finished[1] / "metrics.jsonl").read_text().splitlines()]
    assert draw_curves(tmp_path, records, ["toy/score"], {}, best=3) == "curves.png"
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height
        assert len(picture.getcolors(picture.width * picture.height)) > 100  # lines of two colors, and letters


def test_a_resume_to_nothing_keeps_the_numbers(run, finished):
    names = ("result.json", "RESULT.md")
    before = [(run / name).read_bytes() for name in names]
    train(toy_task.load(finished[0], run), "yes")
    assert [(run / name).read_bytes() for name in names] == before
    (run / "RESULT.md").unlink()  # killed before it was written
    train(toy_task.load(finished[0], run), "yes")
    card = json.loads((run / "result.json").read_text())
    assert card["metrics"] == json.loads(before[0])["metrics"] and card["images"] == 12
    assert (run / "RESULT.md").read_text().startswith("ToyModel reached toy/score")


def test_a_metric_that_is_not_defined_is_null_and_chooses_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(toy_task.ToyMetric, "compute_metrics", lambda *_: {"score": math.nan, "other": 0.5})
    train(toy_task.load(finished[0], tmp_path / "run", "train_cfg.max_iters=3"))
    for text in ((tmp_path / "run" / name).read_text() for name in ("metrics.jsonl", "result.json", "RESULT.md")):
        assert "NaN" not in text and "nan" not in text
    assert read_metrics(tmp_path / "run")[-1]["toy/score"] is None
    assert "| toy/score | – |" in (tmp_path / "run" / "RESULT.md").read_text()
    assert not (tmp_path / "run" / "best_checkpoint.json").exists()


class Loop:
    """As far as the page asks a loop of mmengine."""

    def __init__(self, metric, dataset):
        self.evaluator = type("Evaluator", (), {"metrics": [metric]})
        self.dataloader = type("Loader", (), {"dataset": dataset})


@pytest.fixture
def judged(tmp_path):
    """(metric, dataset, numbers) of an evaluation in which one object of each image was found."""
    content = random_coco(2, crowds=0)
    metric = build(tmp_path, content)
    predict = true_of(content, count=1)
    paths = {image["id"]: str(tmp_path / "images" / image["file_name"]) for image in content["images"]}
    metric.process({}, [{**predict(image), "img_path": paths[image["id"]]} for image in content["images"]])
    found = metric.evaluate(len(content["images"]))
    arguments = {"ann_file": "instances.json", "data_root": str(tmp_path), "data_prefix": {"img_path": "images"}}
    return metric, CocoInstances(**arguments, pipeline=[{"type": "LoadImage"}, {"type": "PackSample"}]), found


def test_the_card_says_what_its_numbers_mean(judged, tmp_path):
    metric, dataset, found = judged
    card = json.loads(json.dumps(numbers(tmp_path, Loop(metric, dataset), found), allow_nan=False))
    assert card["headline"][0] == "coco/bbox_mAP" and card["images"] == 6
    assert card["measures"]["coco/bbox_mAP"]["name"] == "box AP"
    assert card["per_class"]["coco/bbox_AP"].keys() == {"car", "dog", "tree"}


def test_best_and_worst_images_are_drawn_and_those_of_before_removed(judged, tmp_path):
    metric, dataset, _ = judged
    old = tmp_path / "ends" / "worst_09_old.jpg"
    old.parent.mkdir()
    old.touch()
    (old.parent / "mine.jpg").touch()
    drawn = draw_ranking(tmp_path, "ends", metric.explanation.ranking, reader_of(dataset))
    assert [len(drawn[end]) for end in ("best", "worst")] == [3, 2]
    files = {f"ends/{path.name}" for path in old.parent.iterdir()}
    assert files == {row[0] for rows in drawn.values() for row in rows} | {"ends/mine.jpg"}


def test_an_image_that_is_gone_is_left_out(judged, tmp_path):
    metric, dataset, _ = judged
    shutil.rmtree(tmp_path / "images")
    assert draw_ranking(tmp_path, "ends", metric.explanation.ranking, reader_of(dataset)) == {"best": [], "worst": []}


def test_a_matrix_is_drawn_where_it_can_be_read(judged, tmp_path, drawn_charts):
    confusion = judged[0].explanation.confusion
    assert draw_confusion(tmp_path, "confusion.png", confusion) == "confusion.png"
    with Image.open(tmp_path / "confusion.png") as picture:
        assert len(picture.getcolors(picture.width * picture.height)) > 100
    names = [str(number) for number in range(40)]
    many = type(confusion)(torch.eye(40).long().numpy(), names, names, "objects", "")
    assert draw_confusion(tmp_path, "many.png", many) is None and not (tmp_path / "many.png").exists()


# --- pictures of a validation -----------------------------------------------------------------------------------------
def test_the_labels_of_a_picture_come_from_its_sample_or_from_its_record(judged):
    dataset = judged[1]
    record = dataset.get_data_info(1)
    image = reader_of(dataset)(record["img_path"])
    sample = PackSample()({"img": image, "img_path": record["img_path"]})["data_samples"]
    labels = labels_of(sample, dataset, image)
    assert labels["labels"].tolist() == [item["label"] for item in record["instances"]]
    assert labels["masks"].shape[-2:] == image.shape[-2:]
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0, 5, 5]]), labels=torch.tensor([2]))
    assert labels_of(sample, dataset, image)["labels"].tolist() == [2]
    sample = BaseDataElement(metainfo={"img_path": "elsewhere.png"})
    assert labels_of(sample, dataset, image) == {}
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, *image.shape[-2:], dtype=torch.int64))
    assert labels_of(sample, dataset, image).keys() == {"sem_seg"}


def test_pictures_for_tensorboard_are_capped_and_those_in_the_folder_are_not(tmp_path):
    shown = []

    class Runner:
        work_dir, _train_loop = str(tmp_path), None
        val_dataloader = type("Loader", (), {"dataset": type("Dataset", (), {"metainfo": {"classes": ("a",)}})})
        visualizer = type("Visualizer", (), {"add_image": staticmethod(lambda _, image, step: shown.append(image))})

    Image.new("RGB", (1500, 600)).save(tmp_path / "wide.png")
    found = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64))
    sample = BaseDataElement(metainfo={"img_path": str(tmp_path / "wide.png")}, pred_instances=found)
    for side in (1024, 4000):
        hook = PictureHook(tensorboard_side=side)
        hook._after_iter(Runner, 0, outputs=[sample], mode="val")
    assert [image.shape for image in shown] == [(410, 1024, 3), (600, 1500, 3)]
    with Image.open(tmp_path / "pictures" / "00_wide.jpg") as picture:
        assert picture.size == (1500, 600)
    with pytest.raises(ValueError, match="tensorboard_side"):
        PictureHook(tensorboard_side=0)
