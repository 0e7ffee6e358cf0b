"""`pe-spatial train TASK --data …` as a user types it, from a folder of their own, with an encoder from scratch."""

import json
import re
import shlex
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

import pe_spatial
from pe_spatial.commands.shell import run_command
from pe_spatial.doctor.examination import examine_dataset
from pe_spatial.own import facts
from pe_spatial.own.compose import compose
from pe_spatial.own.request import Request

# the end of every command: small pictures, no process for two of them, and of a model that is not tiny small heads
SMALL = "--image-size 64 --workers 0"
MEASURED = ("time", "data_time", "memory")
SMALL_HEADS = "model.roi_heads.samples=8 model.rpn.post_nms=[8,8]"
COMMANDS = {
    "coco": "pe-spatial train detection --data coco --model mask_rcnn-t --epochs 1 --weights none",
    "yolo": "pe-spatial train detection --data yolo/data.yaml --model mask_rcnn-tiny --epochs 1",
    "voc": "pe-spatial train detection --data voc --model deta-tiny --epochs 1",
    "segmentation": "pe-spatial train segmentation --data drawn --model mask_decoder-tiny --epochs 1",
    "panoptic": "pe-spatial train panoptic --data drawn --model mask_decoder-tiny --epochs 1",
    "depth": "pe-spatial train depth --data drawn --model dpt-tiny --epochs 1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A user's folder: drawn scenes (`drawn`), and the same objects as COCO, YOLO and Pascal VOC."""
    folder = tmp_path_factory.mktemp("own")
    drawn = ["--output", str(folder / "drawn"), "--images", "6", "--image-size", "64", "--no-photographs"]
    assert run_command("demo", drawn) == 0
    for name in ("coco", "yolo", "voc"):
        options = ["--to", name, "--format", "coco", "--allow-loss"]
        assert run_command("convert data", [str(folder / "drawn"), str(folder / name), *options]) == 0
    return folder


@pytest.fixture
def call(place, monkeypatch, capfd):
    """(exit status, output) of a command in that folder."""
    monkeypatch.chdir(place)

    def run(command):
        program, name, *arguments = shlex.split(command)
        assert program == "pe-spatial"
        monkeypatch.setattr(sys, "argv", [program, name, *arguments])
        try:
            status = run_command(name, arguments)
        except SystemExit as end:  # of the parser
            status = end.code
        return status, "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_one_command_trains(name, call, place):
    assert len(COMMANDS[name]) <= 100
    heads = "" if "-tiny" in COMMANDS[name] else SMALL_HEADS
    status, out = call(f"{COMMANDS[name]} {heads} {SMALL} --output run_{name} experiment_name=own_{name}")
    assert status == 0, out
    result = json.loads((place / f"run_{name}" / "result.json").read_text())
    assert result["metrics"] and result["best"]
    shown = ("data: ", "recipe: own/", "learning rate: ", "length: ", " per step; ", "trainable", f"run_{name}")
    assert [text for text in shown if text not in out] == []


def test_the_printed_config_gives_the_same_run(call, place):
    """To the last digit of every loss and every metric."""
    status, printed = call(f"{COMMANDS['yolo']} {SMALL} --print-config")
    assert status == 0
    (place / "printed.yaml").write_text(printed)
    status, out = call("pe-spatial train --config printed.yaml --output run_printed experiment_name=own_printed")
    assert status == 0, out
    if not (place / "run_yolo").exists():  # this test alone
        call(f"{COMMANDS['yolo']} {SMALL} --output run_yolo experiment_name=own_yolo")
    records = [
        [{key: value for key, value in json.loads(line).items() if key not in MEASURED} for line in text.splitlines()]
        for text in ((place / run / "metrics.jsonl").read_text() for run in ("run_yolo", "run_printed"))
    ]
    assert records[0] == records[1] != []


def test_python_gives_the_run_and_resuming_knows_its_data(call, place):
    """With all knobs on; what is printed by the command stands in the run's folder."""
    run = pe_spatial.train(
        "detection", data=place / "yolo", model="mask_rcnn-tiny", iterations=2, image_size=64, workers=0, batch_size=2,
        accumulate=2, clip=1, precision="bf16", ema=True, early_stopping=1, logger="csv", output=place / "run_python",
        overrides=["experiment_name=own_python"],
    )  # fmt: skip
    assert run.best.parent == run.folder and "coco/bbox_mAP" in run.metrics
    assert len(run.predictor()(np.zeros((40, 40, 3), np.uint8)).pred_instances) >= 0
    (rows,) = [path.read_text().splitlines() for path in run.folder.rglob("metrics.csv")]
    assert rows[0] == "iter,name,value" and any(row.startswith("2,train/loss,") for row in rows)

    longer = "train_cfg.max_iters=4 experiment_name=own_longer"
    status, out = call(f"pe-spatial train --resume run_python {longer}")
    assert status == 0 and "continuing after iteration 2" in out
    label = next((place / "yolo" / "labels" / "train").iterdir())
    before = label.read_text()
    label.write_text("".join(before.splitlines(keepends=True)[:-1]))
    status, out = call("pe-spatial train --resume run_python train_cfg.max_iters=6 experiment_name=own_other")
    label.write_text(before)
    assert status == 2 and "the training data differ from those of this run (other pictures or objects)" in out


def test_the_classes_of_label_maps_are_counted(place, monkeypatch):
    """All of them, or a sample, which is said."""
    lines = {}
    for task, model in (("segmentation", "linear-tiny"), ("panoptic", "mask_decoder-tiny")):
        lines[task] = "\n".join(compose(Request(task, place / "drawn", model=model, image_size=64)).lines)
        train = re.search(r"  train: 5 images; (\d+) classes, shares of .* / of the images: (.*)", lines[task])
        shares = [float(share) for share in re.findall(r"([\d.]+)% / \d+%", train[2])]
        assert sum(shares) == pytest.approx(100, abs=0.5) and shares == sorted(shares, reverse=True)
    maps = [
        np.asarray(Image.open(path).convert("RGB")) for path in (place / "drawn" / "labels" / "train").glob("*.png")
    ]
    color = yaml.safe_load((place / "drawn" / "classes.yaml").read_text())["classes"]["wall"]
    walls = 100 * np.mean([np.mean((values == color).all(axis=-1)) for values in maps])
    assert f"wall {walls:.1f}% / 100%" in lines["segmentation"]
    assert "classes that occur in training only, so that no score tells of them: 1 (triangle)" in lines["segmentation"]
    monkeypatch.setattr(
        facts, "examine_dataset", lambda split, data, options: examine_dataset(split, data, replace(options, samples=2))
    )
    (line,) = [line for line in compose(Request("segmentation", place / "drawn")).lines if line.startswith("  train")]
    assert "/ of a sample of 2 images: wall " in line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train detect --data yolo", "there is no task 'detect'; did you mean 'detection'?"),
        ("train detection", "give --data"),
        ("train --epochs 3 --config x", "--epochs belongs to a task"),
        ("train detection --data yolo --resume run", "--resume belongs to runs without a task"),
        ("train detection --data yolo --epochs 0", "epochs 0 must be above 0"),
        ("train detection --data nowhere", "nowhere"),
        ("train detection --data yolo --model mask_rcn-s", "did you mean 'mask_rcnn-s'"),
        ("train depth --data yolo", "cannot be used for depth; use it for detection, instances"),
        ("train detection --data yolo --model mask_rcnn-t", "or train from scratch with weights=none"),
        ("check", "give either a dataset or --config"),
        ("check yolo --config x", "give either a dataset or --config"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(command, message, call, place, monkeypatch):
    monkeypatch.setenv("PE_SPATIAL_WEIGHTS", str(place / "no_weights"))
    monkeypatch.setattr("pe_spatial.backbones.weights.source._download", not_here)
    before = sorted(path.name for path in place.iterdir())
    status, out = call(f"pe-spatial {command}")
    assert status == 2
    assert message in out and out.count("error: ") == 1 and "Traceback" not in out
    assert sorted(path.name for path in place.iterdir()) == before


def not_here(name):
    raise FileNotFoundError(f"{name}.pt is not on this machine")


def test_a_folder_is_checked_without_a_config(call):
    status, out = call("pe-spatial check yolo --tiles 1 --output sheets")
    assert status == 0 and "data: " in out and "== train: CocoInstances, 5 samples" in out
    status, out = call("pe-spatial check drawn --format depth --tiles 0")
    assert status == 0 and "depth pairs" in out
