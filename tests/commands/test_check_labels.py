"""`pe-spatial check --checkpoint`: what a trained model contradicts is found, listed and drawn."""

import json

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from small_checkpoints import save_depth_model, save_detector
from small_runs import CONFIG, overrides, write_strips

from pe_spatial.commands.shell import run_command
from pe_spatial.inference.predictor import Predictor


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("model") / "detector.pth")


@pytest.fixture
def data(tmp_path):
    write_strips(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def truthful(data, monkeypatch):
    """The model says what the annotation file says when this test begins."""
    content = json.loads((data / "instances.json").read_text())
    by_pixels = {}  # the image, and whether it is mirrored
    for image in content["images"]:
        pixels = np.asarray(Image.open(data / "images" / image["file_name"]))
        by_pixels |= {pixels[:, ::-1].tobytes(): (image, True), pixels.tobytes(): (image, False)}

    def infer(self, samples):
        found = []
        for sample in samples:
            pixels = sample["inputs"].permute(1, 2, 0).contiguous().numpy().tobytes()
            image, is_mirrored = by_pixels[pixels]
            items = [item for item in content["annotations"] if item["image_id"] == image["id"]]
            boxes = torch.tensor([item["bbox"] for item in items], dtype=torch.float32)
            boxes[:, 2:] += boxes[:, :2]
            if is_mirrored:
                boxes[:, [0, 2]] = image["width"] - boxes[:, [2, 0]]
            labels = torch.tensor([[1, 4, 6].index(item["category_id"]) for item in items])
            instances = InstanceData(bboxes=boxes, labels=labels, scores=torch.full((len(items),), 0.9))
            found.append(sample["data_samples"].new(pred_instances=instances))
        return found

    monkeypatch.setattr(Predictor, "infer", infer)


def check(data, checkpoint, output, *arguments):
    files = ["--config", CONFIG, "--checkpoint", str(checkpoint), "--output", str(output), "--device", "cpu"]
    changes = [change for change in overrides(data, iterations=1) if not change.startswith("val_dataloader")]
    only_train = ["val_dataloader=null", "val_evaluator=null", "val_cfg=null"]
    return run_command("check", [*files, *arguments, *changes, *only_train])


def spoil(data):
    def change(content):
        first, second, third = content["annotations"][:3]
        first["category_id"] = 1 if first["category_id"] != 1 else 4
        second["bbox"][1] += 3
        content["annotations"].remove(third)

    path = data / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_faults_are_listed_drawn_and_printed(data, truthful, detector, tmp_path, capfd):
    spoil(data)
    code = check(data, detector, tmp_path / "out", "--batch-size", "3")
    out = capfd.readouterr().out
    assert code == 0, out
    listed = json.loads((tmp_path / "out" / "label_errors.json").read_text())
    entries = listed["suspects"]
    assert listed["checkpoint"] == str(detector)
    assert {entry["kind"] for entry in entries} == {"class", "box", "missing"}
    assert all(entry["split"] == "train" and 0 < entry["score"] <= 1 and entry["reason"] for entry in entries)
    by_kind = {entry["kind"]: entry for entry in entries}
    assert (by_kind["class"]["image_id"], by_kind["class"]["annotation"]) == (1, 0)
    assert (by_kind["box"]["image_id"], by_kind["box"]["annotation"]) == (1, 1)
    ids = [item["id"] for item in json.loads((data / "instances.json").read_text())["annotations"]]
    assert [by_kind[kind]["annotation_id"] for kind in ("class", "box")] == ids[:2]
    assert f" annotation {ids[0]}: 0.90, annotated" in out
    assert by_kind["missing"]["image_id"] == 2
    assert not {"annotation", "annotation_id"} & by_kind["missing"].keys()
    assert "warning: objects that the model takes for another class\n" in out
    with Image.open(tmp_path / "out" / "train_label_errors.png") as sheet:
        assert min(sheet.size) > 480


def test_sound_labels_are_not_suspected(data, truthful, detector, tmp_path, capfd):
    assert check(data, detector, tmp_path / "out", "--tiles", "0") == 0
    assert "the model" not in capfd.readouterr().out
    assert json.loads((tmp_path / "out" / "label_errors.json").read_text())["suspects"] == []


def test_an_untrained_model_runs_to_the_end(data, detector, tmp_path, capfd):
    assert check(data, detector, tmp_path / "out", "--tiles", "2") == 0
    assert (tmp_path / "out" / "label_errors.json").is_file()


def test_other_classes_are_named(data, detector, tmp_path, capfd):
    path = data / "instances.json"
    path.write_text(path.read_text().replace('"name": "b"', '"name": "bicycle"'))
    assert check(data, detector, tmp_path / "out", "--tiles", "0") == 1
    assert "only one of them has: b, bicycle" in capfd.readouterr().out


def test_a_model_of_another_task_is_refused(data, tmp_path, capfd):
    checkpoint = save_depth_model(tmp_path / "depth.pth")
    assert check(data, checkpoint, tmp_path / "out") == 2
    assert "has a model for depth, and only a detector can be compared" in capfd.readouterr().err
