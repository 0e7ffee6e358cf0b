"""`pe-spatial train TASK --data …` as a user types it, from a folder of their own, with an encoder from scratch."""

import json
import shlex
import sys

import pytest

from pe_spatial.commands.shell import run_command

# the end of every command: small pictures, no process for two of them, and of a model that is not tiny small heads
SMALL = "--image-size 64 --workers 0"
SMALL_HEADS = "model.roi_heads.samples=8 model.rpn.post_nms=[8,8]"
COMMANDS = {
    "coco": "pe-spatial train detection --data coco --model mask_rcnn-t --epochs 1 --weights none",
    "yolo": "pe-spatial train detection --data yolo/data.yaml --model mask_rcnn-tiny --epochs 1",
    "voc": "pe-spatial train detection --data voc --model deta-tiny --epochs 1",
    "instances": "pe-spatial train instances --data coco/annotations/instances_train.json --model mask_rcnn-tiny",
    "linear": "pe-spatial train segmentation --data drawn --model linear-tiny --epochs 1",
    "decoder": "pe-spatial train segmentation --data drawn/classes.yaml --model mask_decoder-tiny --epochs 1",
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
        status = run_command(name, arguments)
        return status, "".join(capfd.readouterr())

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_one_command_trains(name, call, place):
    assert len(COMMANDS[name]) <= 100
    epochs = "" if "--epochs" in COMMANDS[name] else "--iterations 1"
    heads = "" if "-tiny" in COMMANDS[name] else SMALL_HEADS
    status, out = call(f"{COMMANDS[name]} {epochs} {heads} {SMALL} --output run_{name} experiment_name=own_{name}")
    assert status == 0, out
    result = json.loads((place / f"run_{name}" / "result.json").read_text())
    assert result["metrics"] and result["best"]
