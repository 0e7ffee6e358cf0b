"""Every task takes an encoder of timm: of patch 14, of patch 16, and a convnet; with random weights, small."""

import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import BaseDataElement

from pe_spatial.alignment.model import SpatialAlignment
from pe_spatial.commands.shell import run_command
from pe_spatial.commands.sweep import find_task
from pe_spatial.common.errors import UserError
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request
from pe_spatial.tracking import VideoTracker

pytest.importorskip("timm")

ENCODERS = {"eva02_tiny_patch14_224": 56, "test_vit": 64, "test_convnext": 64}  # name -> side of pictures in pixels
MODELS_OF_TASKS = [
    ("detection", "mask_rcnn-tiny"),
    ("segmentation", "linear-tiny"),
    ("segmentation", "mask_decoder-tiny"),
    ("depth", "dpt-tiny"),
]
encoders = pytest.mark.parametrize("encoder", ENCODERS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "drawn"
    options = ["--images", "6", "--image-size", "64", "--no-photographs"]
    assert run_command("demo", ["--output", str(folder), *options]) == 0
    return folder


def config_of(drawn, task, model, encoder):
    request = Request(task, drawn, model=model, encoder=encoder, image_size=ENCODERS[encoder], workers=0, batch_size=1)
    return compose(request).config


def batch_of(dataset):
    return {key: [value] for key, value in dataset[0].items()}


@encoders
@pytest.mark.parametrize(("task", "model"), MODELS_OF_TASKS)
def test_a_task_trains_and_predicts(task, model, encoder, drawn):
    if "mask_decoder" in model and encoder == "test_convnext":
        with pytest.raises(UserError, match="queries cannot join the blocks of test_convnext"):
            MODELS.build(config_of(drawn, task, model, encoder).model)
        return
    config = config_of(drawn, task, model, encoder)
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        built = MODELS.build(config.model)
        train, val = (DATASETS.build(config[f"{part}_dataloader"].dataset) for part in ("train", "val"))
    assert built.backbone.model == encoder
    assert built.data_preprocessor.mean.flatten().tolist() == pytest.approx(built.backbone.mean)
    losses = built.train()(**built.data_preprocessor(batch_of(train), True), mode="loss")
    sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
    assert any(p.grad is not None for name, p in built.named_parameters() if "backbone" not in name)
    found = built.eval().val_step(batch_of(val))[0]
    assert any(name.startswith("pred_") for name in found.all_keys())


@encoders
def test_the_tracker(encoder):
    side = ENCODERS[encoder]
    resizing = {"short_side": side}
    tracker = VideoTracker({"type": "TimmBackbone", "model": encoder}, resizing)
    frames = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(3)]
    mask = torch.zeros(side, side, dtype=torch.uint8)
    mask[: side // 2] = 1
    assert [ids.shape for ids in tracker.track(frames, {0: mask})] == [mask.shape] * 3
    assert tracker.normalize.mean.flatten().tolist() == pytest.approx(tracker.backbone.mean)
    with pytest.raises(UserError, match=r"VideoTracker takes one map, but TimmBackbone gives 2 \(layers \[0, 1\]\)"):
        VideoTracker({"type": "TimmBackbone", "model": encoder, "layers": [0, 1]}, resizing)


@encoders
def test_alignment_teacher_and_student(encoder):
    side = ENCODERS[encoder]
    foreign = {"type": "TimmBackbone", "model": encoder}
    model = SpatialAlignment(
        student=foreign,
        teachers={"same": {"type": "EncoderTeacher", "backbone": foreign}},
        semantic={"teacher": "same"},
        locality={"teacher": "same", "temperature": None},
    )
    teacher = model.teachers["same"]
    teacher.backbone.encoder.load_state_dict(model.student.encoder.state_dict(), strict=False)
    images = torch.randn(1, 3, side * 2, side * 2)
    with torch.no_grad():
        losses = model.eval().loss(images, [BaseDataElement()])
    # its own copy, normalized as itself: the cosines are 1, and their matrices agree
    assert float(losses["loss_semantic"]) == pytest.approx(-1, abs=1e-4) and losses["loss_locality"] < 1e-6
    model.train().loss(images, [BaseDataElement()])["loss_semantic"].backward()
    assert model.student.encoder.state_dict()


@encoders
def test_the_drawing_of_features(encoder, drawn, tmp_path):
    picture = next(path for path in drawn.rglob("*") if path.suffix in (".jpg", ".png"))
    options = ["--encoder", encoder, "--input", str(picture), "--output", str(tmp_path), "--layers", "0,-1"]
    assert run_command("visualize", [*options, "--image-size", str(ENCODERS[encoder])]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 1


@encoders
def test_the_sweep_over_layers(encoder, drawn, tmp_path):
    config = config_of(drawn, "segmentation", "linear-tiny", encoder)
    config.model.backbone.frozen = True
    config.train_cfg.max_iters = 1
    config.param_scheduler = None
    config.work_dir = str(tmp_path)
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        found = find_task(config).evaluate_layers(config, [0, 2], "cpu")
    assert found.keys() == {0, 2} and all("seg/mIoU" in scores for scores in found.values())
