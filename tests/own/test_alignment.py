"""`pe-spatial train alignment`: from photographs to an encoder that other trainings begin with."""

import json
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from children import CONTEXT
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from PIL import Image

import pe_spatial
from pe_spatial.backbones import VARIANTS, PEBackbone, VisionTransformer, get_variant
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import ConfigError, UserError
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.demo.datasets import write_davis
from pe_spatial.demo.scenes import draw_video
from pe_spatial.own import memory
from pe_spatial.own.compose import compose
from pe_spatial.own.encoders import find_encoder
from pe_spatial.own.models import TINY_ENCODER, find_model
from pe_spatial.own.request import Request
from pe_spatial.training.checkpoint import load_checkpoint
from pe_spatial.training.planner.planning import Plan, find_target, predict

SMALL = {"image_size": 32, "workers": 0, "batch_size": 4}
FORMATS = Path(__file__).parents[1] / "data" / "formats"


def write_encoder(path, seed=0, **changes):
    """Random weights of the tiny encoder."""
    torch.manual_seed(seed)
    write_tensor_file(VisionTransformer(get_variant({**TINY_ENCODER, **changes})).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs in nested folders with a file that is none, a list of some, and two encoders."""
    folder = tmp_path_factory.mktemp("alignment")
    (folder / "photos" / "trip" / "day").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        pixels = rng.integers(0, 80, (40, 48, 3), np.uint8) + np.uint8(16 * number)
        Image.fromarray(pixels).save(folder / "photos" / ("trip/day" if number % 2 else "") / f"{number}.png")
    (folder / "photos" / "notes.txt").write_text("not a photograph")
    (folder / "list.txt").write_text("\n".join(f"photos/{number}.png" for number in (0, 2, 4, 6)))
    write_encoder(folder / "start.pt")
    write_encoder(folder / "teacher.pt", seed=1)
    return folder


def train(place, output, **request):
    request = {"data": place / "photos", "model": "core-tiny", "weights": place / "start.pt", **SMALL, **request}
    name = f"experiment_name=alignment_{output}"
    overrides = [name, *request.pop("overrides", ())]
    return pe_spatial.train("alignment", **request, output=place / output, overrides=overrides)


def records(folder, mode, key):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if line["mode"] == mode]


@pytest.fixture(scope="module")
def whole(place):
    """Twelve steps of learning from another encoder."""
    predicted = "default_hooks.plan.shortest=1"
    return train(place, "whole", teacher=place / "teacher.pt", iterations=12, lr=2e-3, overrides=[predicted])


class KillHook(Hook):
    """Kills its process right before a step."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, *_, **__):
        if runner.iter == self.at:
            signal.raise_signal(signal.SIGKILL)


def child(place, output, kill_at):
    """The run of `whole`, killed."""
    torch.set_num_threads(1)
    train(place, output, teacher=place / "teacher.pt", iterations=12, lr=2e-3, hooks=[KillHook(kill_at)])


def test_the_student_comes_nearer_to_its_teacher(whole):
    values = records(whole.folder, "train", "loss")
    assert np.mean(values[-3:]) < np.mean(values[:3])
    held_out = records(whole.folder, "val", "align/semantic_cosine")
    assert whole.metrics["align/semantic_cosine"] == held_out[-1] > held_out[0]
    sentence = (whole.folder / "RESULT.md").read_text().splitlines()[0]
    assert sentence.startswith("SpatialAlignment with encoder tiny reached semantic cosine 0.")
    assert json.loads((whole.folder / "best_checkpoint.json").read_text())["metric"] == "align/semantic_cosine"


def test_the_card_holds_what_was_predicted_and_what_happened(whole):
    """Memory is that of the process, which other tests may have made greater before."""
    plan = json.loads((whole.folder / "result.json").read_text())["plan"]
    assert plan["predicted_seconds_per_image"] > 0 and plan["measured_seconds_per_image"] > 0
    assert 0.01 < plan["predicted_memory_gb"] < 1 and plan["batch"] == 4
    assert plan["measured_memory_gb"] is None or 0.01 < plan["measured_memory_gb"] < 1
    assert (plan["tuning"], plan["image_size"]) == ("full", [32, 32])


def test_a_killed_run_goes_on_to_the_same_weights(place, whole, monkeypatch, capfd):
    process = CONTEXT.Process(target=child, args=(place, "killed", 8))
    process.start()
    process.join(100)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.chdir(place)
    assert run_command("train", ["--resume", "killed", "experiment_name=alignment_again"]) == 0
    assert "continuing after iteration" in "".join(capfd.readouterr())
    ours, theirs = (load_checkpoint(place / name / "iter_12.pth")["state_dict"] for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_command_is_short_and_says_what_it_does(place, monkeypatch, capfd):
    command = "pe-spatial train alignment --data photos --teacher teacher.pt --model core-tiny --epochs 1"
    assert len(command) <= 100
    monkeypatch.chdir(place)
    program, name, *arguments = shlex.split(f"{command} --image-size 32 --workers 0 --output run_command")
    monkeypatch.setattr(sys, "argv", [program, name, *arguments])
    status = run_command(name, [*arguments, "experiment_name=alignment_command"])
    out = "".join(capfd.readouterr())
    assert status == 0, out
    shown = (
        "photos: 10 photographs, without labels",
        "left out because of their names: 1 (1 .txt)",
        "20% of 10 photographs are held out",
        "train: 8 images",
        "val: 2 images",
        "teacher: block 4 of 4 of tiny",
        "924,416 frozen parameters",
        "recipe: own/alignment_teacher.yaml, model core-tiny",
        "learning rate: ",
        "length: 1 iterations, 1.0 epochs",
        "= 8 per step",
        "trainable and 0 frozen parameters",
        "float32",
        "run_command",
    )
    assert [text for text in shown if text not in out] == []


def test_another_training_begins_with_the_student_of_a_run(place, whole, tmp_path):
    """Named by the folder, by its best checkpoint or by the exported file."""
    demo = ["--output", str(tmp_path / "data"), "--images", "6", "--image-size", "32", "--no-photographs"]
    assert run_command("demo", demo) == 0
    options = {"model": "linear-tiny", "format": "masks", "iterations": 1, "image_size": 32, "workers": 0}
    for task, source in (("segmentation", whole.folder), ("segmentation", whole.folder / "student.pt")):
        config = compose(Request(task, tmp_path / "data", weights=source, **options)).config
        found = PEBackbone(TINY_ENCODER, weights=config.model.backbone.weights)
        assert set(found.encoder.state_dict()) == set(load_checkpoint(whole.folder / "student.pt"))
    run = pe_spatial.train(
        "segmentation", data=tmp_path / "data", weights=whole.folder, output=tmp_path / "run", lr=1e-9,
        overrides=["experiment_name=of_a_student"], **options,
    )  # fmt: skip
    key = "encoder.transformer.resblocks.0.mlp.c_fc.weight"
    trained = load_checkpoint(run.best)["state_dict"][f"backbone.{key}"]
    student = load_checkpoint(whole.best)["state_dict"][f"student.{key}"]
    torch.testing.assert_close(trained, student, atol=1e-6, rtol=0)
    assert find_encoder(whole.folder).variant == find_encoder(whole.folder / "student.pt").variant == TINY_ENCODER


def test_averaged_weights_are_what_is_exported(place):
    run = train(place, "averaged", iterations=4, ema=True, lr=1e-2)
    content = load_checkpoint(run.folder / "iter_4.pth")
    exported = load_checkpoint(run.folder / "student.pt")
    for name, tensor in exported.items():
        assert torch.equal(tensor, content["state_dict"][f"student.encoder.{name}"])
    assert any(
        not torch.equal(tensor, content["ema_state_dict"][f"module.student.encoder.{name}"])
        for name, tensor in exported.items()
        if tensor.is_floating_point()
    )


# --- what is composed -------------------------------------------------------------------------------------------------
def composed(place, **options):
    return compose(Request(**{"task": "alignment", "data": place / "photos", "model": "core-tiny", **SMALL, **options}))


def test_without_a_teacher_the_student_learns_from_its_own_beginning(place):
    composition = composed(place, weights=place / "start.pt")
    model = composition.config.model
    assert model.teachers.teacher.type == "LayerTeacher" and model.get("locality") is None
    assert model.teachers.teacher.weights == model.student.weights == str(place / "start.pt")
    assert any(line.startswith("teacher: block 3 of 4 of tiny") for line in composition.lines)
    names = {hook["type"] for hook in composition.config.default_hooks.values() if hook}
    assert "StudentTrialHook" not in names and composition.config.optim_wrapper.optimizer.type == "AdamW"


@pytest.mark.parametrize("name", ["PE-Core-S16-384", "core-s", None])
def test_a_released_student_has_the_shape_of_a_pe_spatial(name, place):
    model = find_model("alignment", name)
    assert (model.name, model.encoder, model.weights) == ("core-s", "PE-Spatial-S16-512", "PE-Core-S16-384")


@pytest.mark.parametrize(("model", "patch", "side"), [("PE-Spatial-T16-512", 16, 512), ("PE-Core-L14-336", 14, 448)])
def test_size_and_patches_follow_the_student(model, patch, side, place):
    request = Request("alignment", place / "photos", model=model, teacher="PE-Spatial-G14-448", batch_size=2)
    config = compose(request).config
    steps = {step.type: step for step in config.train_dataloader.dataset.pipeline}
    assert steps["RandomAspect"].size == [side, side] and steps["HideTokens"].patch_size == patch
    assert config.model.teachers.teacher.variant == "PE-Spatial-G14-448" and config.model.semantic.projection


@pytest.mark.parametrize(
    ("data", "counts"),
    [("photos", (8, 2)), ("list.txt", (3, 1)), ("photos/trip", (4, 1))],
)
def test_folders_and_lists_are_photographs(data, counts, place):
    lines = composed(place, data=place / data, weights=place / "start.pt", batch_size=2).lines
    assert {f"  {part}: {count} images" for part, count in zip(("train", "val"), counts, strict=True)} <= set(lines)


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("yolo_boxes", "images/train"),
        ("masks_ids", "images/train"),
        ("panoptic", "images/val"),
        ("depth_npy", "images"),
        ("video", "JPEGImages"),
        ("coco_datumaro", "images/train"),
    ],
)
def test_data_sets_give_their_pictures_and_no_labels(name, pictures, place):
    config = composed(place, data=FORMATS / name, weights=place / "start.pt", batch_size=1).config
    paths = DATASETS.build({**config.train_dataloader.dataset.to_dict(), "pipeline": []}).image_paths()
    assert paths and all(path.startswith(str(FORMATS / name / pictures)) for path in paths)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "starts from random weights and has no teacher; give a teacher"),
        ({"weights": "none"}, "starts from random weights"),
        ({"weights": "start.pt", "tune": "lora"}, "tune lora: alignment trains a whole encoder"),
        (
            {"weights": "start.pt", "image_size": 40},
            "image_size 40 is not a multiple of .* 16; take 32 or 48$",
        ),
        ({"weights": "start.pt", "split": "train"}, "has no splits"),
        ({"weights": "start.pt", "output": "photos/run"}, "is inside the photographs"),
        ({"teacher": "PE-Core-S16"}, "no weights at 'PE-Core-S16'.*did you mean 'PE-Core-S16-384'"),
        ({"teacher": "photos/notes.txt"}, "notes.txt"),
        ({"teacher": "other.pt"}, "an encoder of 2 blocks, width 128 .* which is not one of the released encoders"),
        ({"teacher": "start.pt", "data": "photos/0.png"}, "nothing can be held out of 1 pictures"),
        ({"teacher": "start.pt", "data": "nowhere"}, "nowhere"),
        ({"teacher": "start.pt", "model": "PE-Core-S16"}, "did you mean 'PE-Core-S16-384'"),
        (
            {"teacher": "start.pt", "task": "depth", "model": None, "data": "depth"},
            "only the task alignment uses a teacher; remove",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(options, message, place, monkeypatch):
    monkeypatch.chdir(place)
    write_encoder(place / "other.pt", depth=2)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        composed(place, **{**options, "output": options.get("output", "run_refused")})
    assert not (place / "run_refused").exists()


@pytest.mark.parametrize("name", ["PE-Spatial-T16-512", "PE-Core-T16-384"])
def test_the_shape_of_a_released_file_is_found(name, tmp_path):
    with torch.device("meta"):
        state = VisionTransformer(VARIANTS[name]).state_dict()
    write_tensor_file({key: torch.zeros(tensor.shape) for key, tensor in state.items()}, tmp_path / "any.pt")
    assert find_encoder(tmp_path / "any.pt").variant == name


# --- several teachers -------------------------------------------------------------------------------------------------
BEST = "default_hooks.checkpoint.best=match/matched"
TRIAL = (  # as docs/alignment_factory.md has it
    "default_hooks.trial={type: StudentTrialHook, metric: {type: MatchingMetric}, model: {type: PhotographMatcher, "
    "homographies: {side: 64, number: 1}}, dataset: {type: Photographs, source: photos, indices: 2, test_mode: true, "
    "pipeline: [{type: LoadImage}, {type: PackSample}]}}"
)


def write_foreign(path):
    """Random weights of a small encoder of timm, in a file."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    write_tensor_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


def test_several_teachers_of_any_kind_train_one_student_on_one_card(place, monkeypatch, capfd):
    write_foreign(place / "r.pt")
    monkeypatch.chdir(place)
    # one way to train instead of all: each takes seconds to measure
    found = lambda config, amount: Plan(find_target("cpu"), amount, (predict(config),), None, "")  # noqa: E731
    monkeypatch.setattr(memory, "plan", found)
    command = "--data photos --teacher teacher.pt --teacher test_resnet=r.pt --model core-tiny --epochs 1 --memory 2gb"
    arguments = shlex.split(f"alignment {command} --image-size 64 --workers 0 --batch-size 2 --output run_several")
    monkeypatch.setattr(sys, "argv", ["pe-spatial", "train", *arguments])
    overrides = ["experiment_name=alignment_several", "model.distill.teacher={weight: 2}", TRIAL, BEST]
    status = run_command("train", [*arguments, "--early-stopping", "3", *overrides])
    out = "".join(capfd.readouterr())
    assert status == 0, out
    assert "recipe: own/alignment_teachers.yaml" in out and "planned for 2.00 GB" in out
    assert "cost: 8 images, 0:00:0" in out and "of checkpoints" in out
    assert "a cache of the teachers' features would save nothing in one pass over the photographs" in out
    assert "teacher teacher: block 4 of 4 of tiny" in out and "teacher test_resnet: block 5 of 5 of test_resnet" in out
    lines = [json.loads(line) for line in (place / "run_several" / "metrics.jsonl").read_text().splitlines()]
    train_keys = {key for line in lines if line["mode"] == "train" for key in line}
    assert {"loss_teacher_cosine", "loss_test_resnet_cosine"} <= train_keys
    assert {"align/semantic_cosine", "align/semantic_cosine_test_resnet"} <= {k for line in lines for k in line}
    assert any("match/matched" in line and "align/effective_rank" in line for line in lines)
    assert json.loads((place / "run_several" / "best_checkpoint.json").read_text())["metric"] == "match/matched"
    PEBackbone(TINY_ENCODER, weights=str(place / "run_several" / "student.pt"))


@pytest.mark.parametrize("kind", ["matches", "tracking", "neighbors", "linear"])
def test_a_student_is_tried_on_what_the_command_names(place, kind, tmp_path):
    if kind in ("neighbors", "linear"):
        data = tmp_path / "labeled"
        made = [
            "--output",
            str(data),
            "--images",
            "12",
            "--image-size",
            "64",
            "--no-photographs",
            "--formats",
            "labels",
        ]
        assert run_command("demo", made) == 0
    elif kind == "tracking":
        data = tmp_path / "davis"
        write_davis(data, iter([draw_video(4, size=(64, 96), frames=3)]))
    else:
        data = place / "photos"
    run = train(place, f"tried_{kind}", teacher=place / "teacher.pt", iterations=2, trial=f"{kind}={data}")
    measure = {"matches": "match/matched", "tracking": "track/J&F"}.get(kind, f"labels/{kind}")
    assert measure in run.metrics
    assert json.loads((run.folder / "best_checkpoint.json").read_text())["metric"] == measure


def test_a_trial_with_too_few_images_fails_before_the_training(place, tmp_path):
    made = ["--output", str(tmp_path / "few"), "--images", "6", "--image-size", "64", "--no-photographs"]
    assert run_command("demo", [*made, "--formats", "labels"]) == 0
    with pytest.raises(ConfigError, match="the trial has 1 image, and TokenLabelMetric needs at least 2"):
        train(place, "tried_few", teacher=place / "teacher.pt", iterations=2, trial=f"linear={tmp_path / 'few'}")


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (
            "matches",
            r"trial matches is not matches=FOLDER \(photographs\) or .* or linear=FOLDER \(label maps\)",
        ),
        ("linear=nowhere", "nowhere: no such file or folder"),
        ("match=photos", "did you mean 'matches'"),
        ("tracking=photos", "there is no folder JPEGImages"),
    ],
)
def test_a_trial_that_is_none_is_refused(place, trial, message):
    with pytest.raises((UserError, FileNotFoundError), match=message):
        composed(place, teacher=place / "teacher.pt", trial=trial)


def test_one_teacher_of_our_own_is_taught_as_ever(place):
    config = composed(place, teacher=[place / "teacher.pt"]).config
    assert config.to_dict() == composed(place, teacher=place / "teacher.pt").config.to_dict()
    assert config.model.get("distill") is None


def test_names_of_teachers_are_those_of_their_files(place, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_encoder(tmp_path / folder / "My-teacher.v2.pt", seed=ord(folder))
    model = composed(
        place, teacher=[tmp_path / "a" / "My-teacher.v2.pt", tmp_path / "b" / "My-teacher.v2.pt"]
    ).config.model
    assert list(model.teachers) == list(model.distill) == ["my_teacher_v2", "my_teacher_v3"]


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        (["start.pt", "start.pt"], "one is given twice"),
        (["start.pt", "test_resnet"], "weights of timm are not downloaded; give the file, test_resnet=FILE"),
        (["start.pt", "test_resnet=missing.pt"], "there is no file missing.pt"),
        (["start.pt", "PE-Core-S16"], "did you mean 'PE-Core-S16-384'"),
    ],
)
def test_teachers_that_do_not_fit_are_one_line(teachers, message, place, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(place)
    with pytest.raises((UserError, FileNotFoundError), match=message):
        composed(place, teacher=teachers, image_size=64)
