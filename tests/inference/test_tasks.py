"""A model names its task, and a task its writer: models and tasks of the user's own predict without a change."""

import json
from importlib import import_module

import numpy as np
import pytest
from mmengine.registry import MODELS
from PIL import Image
from toy_task import ToyModel

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import UserError
from pe_spatial.common.files import write_json_stream
from pe_spatial.inference.predictor import inference_pipeline
from pe_spatial.inference.tasks import TASKS, Task, register_task, resizing, task_of
from pe_spatial.inference.writer import ResultsWriter
from pe_spatial.training.checkpoint import load_checkpoint, read_config
from pe_spatial.training.config import load_config


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(np.full((20, 30, 3), 9, np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(checkpoint, source, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    return run_command("predict", [str(argument) for argument in arguments])


@pytest.mark.parametrize("task", ["detection", "segmentation", "depth"])
def test_every_model_of_a_task_is_written_by_it(task):
    package = import_module(f"pe_spatial.{task}")
    import_module(f"pe_spatial.{task}.results")
    models = [
        value for value in vars(package).values() if value in MODELS.module_dict.values() and hasattr(value, "task")
    ]
    assert models and {model.task for model in models} == {task}
    assert issubclass(TASKS[task].writer, ResultsWriter)


def test_a_detector_of_the_users_own(finished, photo, tmp_path, monkeypatch, capsys):
    assert run(finished[1], photo, tmp_path / "out") == 2
    assert "the model ToyModel has no task" in capsys.readouterr().err
    monkeypatch.setattr(ToyModel, "task", "detection", raising=False)
    assert run(finished[1], photo, tmp_path / "out", "--threshold", "0") == 0
    found = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["photo.png"] and len(found["annotations"]) == 1
    assert [category["name"] for category in found["categories"]] == ["dark", "bright"]


class CountWriter(ResultsWriter):
    """Writes how many objects there are."""

    result = "counts.json"

    def describe(self, stem, image, sample, frame):
        return {"objects": len(sample.pred_instances)}

    def draw(self, image, sample, frame):
        return image

    def write_lists(self):
        write_json_stream(self.folder / self.result, {"files": self.records.contents()})


def test_a_task_of_the_users_own(finished, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ToyModel, "task", "counting", raising=False)
    assert run(finished[1], photo, tmp_path / "out") == 2
    assert "predict has no writer for ToyModel, a model of counting" in capsys.readouterr().err
    monkeypatch.delitem(TASKS, "counting", raising=False)
    register_task(Task("counting", CountWriter))
    try:
        assert run(finished[1], photo, tmp_path / "out", "--threshold", "0.3") == 2
        assert "--threshold is for detection and segmentation" in capsys.readouterr().err
        assert run(finished[1], photo, tmp_path / "out") == 0
        with pytest.raises(ValueError, match="there is a task 'counting' already"):
            register_task(Task("counting", CountWriter, settings=("threshold",)))
    finally:
        del TASKS["counting"]
    assert json.loads((tmp_path / "out/counts.json").read_text()) == {
        "files": [{"file_name": "photo.png", "objects": 1}]
    }


def test_an_unknown_model_is_named(finished):
    config = read_config(load_checkpoint(finished[1] / "iter_6.pth"), "x")
    config["model"]["type"] = "Nobody"
    with pytest.raises(UserError, match="the model Nobody"):
        task_of(config, finished[1])


# --- the size of the images -------------------------------------------------------------------------------------------
def pipeline_of(steps, **model):
    return {"model": {"type": "x", **model}, "val_dataloader": {"dataset": {"pipeline": steps}}}


LOAD, PACK = {"type": "LoadImage"}, {"type": "PackSample"}


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ({"size": None, "max_size": 1024}, {"size": None, "max_size": 96}),
        ({"size": 512, "max_size": 2048}, {"size": 96, "max_size": 384}),
        ({"size": [240, 320]}, {"size": [72, 96]}),
    ],
)
def test_a_pipeline_resizes_as_before_to_another_size(resize, expected):
    for kind in ("KeepRatioResize", "torchvision.transforms.v2.Resize"):
        (override,) = resizing(pipeline_of([LOAD, {"type": kind, **resize}, PACK]), 96)
        name, _, value = override.partition("=")
        assert name == "val_dataloader.dataset.pipeline"
        assert json.loads(value) == [LOAD, {"type": kind, **expected}, PACK]


def test_a_pipeline_without_a_resize_gets_one_by_the_longer_side():
    (override,) = resizing(pipeline_of([LOAD, PACK]), 96)
    assert json.loads(override.partition("=")[2]) == [LOAD, {"type": "KeepRatioResize", "max_size": 96}, PACK]


def test_the_rounding_and_the_free_canvas_stay():
    """At its own size a recipe is what it was: DETA keeps 32 pixels of its canvas free."""
    config = load_config("deta_pe_spatial_b_coco_12ep", ["_image_size=800"])
    step, canvas = inference_pipeline(config)[1], config.model.data_preprocessor.pad_to
    same = load_config("deta_pe_spatial_b_coco_12ep", ["_image_size=800", *resizing(config, 768)])
    assert inference_pipeline(same)[1] == step and same.model.data_preprocessor.pad_to == canvas
    other = load_config("deta_pe_spatial_b_coco_12ep", ["_image_size=800", *resizing(config, 480)])
    assert inference_pipeline(other)[1] == {**step, "max_size": 480, "limit": 512}
    assert other.model.data_preprocessor.pad_to == [512, 512]


def test_padding_follows_the_size():
    preprocessor = {"type": "DensePreprocessor", "pad_to": [1008, 1024]}
    _, padding = resizing(pipeline_of([LOAD, PACK], data_preprocessor=preprocessor), 100)
    assert padding == "model.data_preprocessor.pad_to=[112, 112]"


def test_the_model_sees_images_of_that_size(finished, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyModel, "task", "detection", raising=False)
    sizes = []
    forward = ToyModel.forward

    def noted(self, inputs, *rest, **more):
        sizes.append(tuple(inputs.shape))
        return forward(self, inputs, *rest, **more)

    monkeypatch.setattr(ToyModel, "forward", noted)
    assert run(finished[1], photo, tmp_path / "out", "--image-size", "60") == 0
    assert sizes == [(1, 3, 40, 60)]
    assert run(finished[1], photo, tmp_path / "out", "--image-size", "80") == 2


@pytest.mark.parametrize("name", ["demo/mask_rcnn_tiny_shapes.yaml", "demo/seg_linear_tiny_shapes.yaml"])
def test_recipes_take_another_size(name):
    overrides = resizing(load_config(name, []), 192)
    steps = inference_pipeline(load_config(name, overrides))
    assert [step.get("size", 0) or step["max_size"] for step in steps if step["type"].endswith("Resize")] == [192]
