"""The other commands and tasks on strangers' files: a line that names the file, the right status, nothing half done."""

import os

import bad_files as bad
import numpy as np
import pytest
from PIL import Image
from small_checkpoints import SAVE, tracker_config
from small_runs import CONFIG, overrides, write_strips
from watched import Watched

from pe_spatial.commands.shell import run_command

FEW = {  # name: (what makes it, part of the message)
    "bomb.png": (bad.png_header, "more than the"),
    "pipe.jpg": (os.mkfifo, "it is a pipe"),
    "zero.png": (bad.linked("/dev/zero"), "it is a device"),
    "two\nlines.jpg": (lambda path: path.write_bytes(b""), "empty"),
    "pipe.mp4": (os.mkfifo, "it is a pipe"),
    "sound.mp4": (bad.sound, "no video stream"),
}
THIN = {"row": (1, 20_000), "column": (20_000, 1), "dot": (1, 1), "pair": (2, 1), "thread": (5000, 1)}


def command(name, *arguments):
    return run_command(name, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def watched():
    with Watched(seconds=120) as run:
        yield run


@pytest.fixture
def strange(tmp_path):
    folder = tmp_path / "in"
    for name, (make, _) in FEW.items():
        bad.good_picture(folder / "good.png")
        make(folder / name)
    for name, size in THIN.items():
        bad.good_picture(folder / f"{name}.png", size)
    return folder


def lines_about(outcome, says):
    return [line for line in outcome.err.splitlines() if says in line]


def left_behind(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".writing")]


@pytest.mark.parametrize("task", ["detection", "depth"])
def test_every_task_names_bad_pictures_and_does_the_others(watched, tmp_path, strange, task):
    output = tmp_path / "out"
    files = ("--checkpoint", SAVE[task](tmp_path / "model.pth"), "--input", strange, "--output", output)
    outcome = watched(command, "predict", *files, "--device", "cpu")
    assert outcome.status == 1, outcome
    for name, (_, says) in FEW.items():
        assert any(says in line for line in outcome.err.splitlines() if ascii(name)[1:-1] in line), outcome.err
    drawn = {path.stem for path in (output / "pictures").iterdir()}
    assert {"good", "dot", "pair"} <= drawn and not drawn & {"bomb", "pipe", "zero", "sound"}
    assert all(name in drawn or lines_about(outcome, f"{name}.png") for name in THIN)
    for path in (output / "pictures").iterdir():
        with Image.open(path) as picture:
            assert picture.width * picture.height < 8_000_000
    assert not left_behind(tmp_path)


def visualize(*arguments):
    encoder = ("--encoder", "PE-Spatial-T16-512", "--weights", "none", "--image-size", 32, "--layers", -1)
    return command("visualize", *encoder, "--device", "cpu", *arguments)


def test_visualize_goes_on_and_never_takes_its_results_for_inputs(watched, tmp_path, strange):
    output = strange / "results"
    for _ in range(2):
        outcome = watched(visualize, "--input", strange, "--output", output)
        assert outcome.status == 1, outcome
        assert f"wrote {1 + len(THIN)} of {1 + len(THIN) + len(FEW)} files" in outcome.out
        for _, says in FEW.values():
            assert lines_about(outcome, says)
        assert len([line for line in outcome.err.splitlines() if line.startswith("warning: not read: ")]) == len(FEW)
    assert len(list(output.iterdir())) == 1 + len(THIN) and not left_behind(strange)
    refused = watched(visualize, "--input", strange, "--output", strange)
    assert refused.status == 2 and "is the folder of the input" in refused.err
    single = watched(visualize, "--input", strange / "pipe.jpg", "--output", tmp_path / "out")
    assert single.status == 2 and "no such file" in single.err and not (tmp_path / "out").exists()


@pytest.fixture
def tracker(tmp_path, watched):
    (tmp_path / "tiny.yaml").write_text(tracker_config(short_side=32))

    def track(source, output, *arguments, box="5,5,30,30"):
        known = ("--config", tmp_path / "tiny.yaml", "--device", "cpu", "--box", box)
        return watched(command, "track", *known, "--input", source, "--output", output, *arguments)

    return track


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("empty.mp4", lambda path: path.write_bytes(b""), "cannot be opened"),
        ("zero.mp4", bad.linked("/dev/zero"), "it is a device|no such file"),
        ("pipe.mp4", os.mkfifo, "no such file|pipe"),
        ("sound.mp4", bad.sound, "no video stream"),
        ("resized.mpg", bad.video_of_two_sizes, "cannot be decoded|one size"),
        (os.fsdecode(b"\xff.mp4"), lambda path: path.write_bytes(b"x"), r"\\udcff.mp4"),
        ("list.mp4", lambda path: path.write_bytes(b"ffconcat version 1.0\nfile list.mp4\n"), "cannot be opened"),
    ],
    ids=lambda value: ascii(value)[1:-1] if isinstance(value, str) else "",
)
def test_a_bad_video_is_not_tracked(tracker, tmp_path, name, make, says):
    make(tmp_path / name)
    outcome = tracker(tmp_path / name, tmp_path / "out")
    assert outcome.status == 2, outcome
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert ascii(name)[1:-1] in line and any(part in line for part in says.replace("\\\\", "\\").split("|"))
    assert not (tmp_path / "out/tracks.json").exists() or not list((tmp_path / "out").glob("*.mp4"))
    assert not left_behind(tmp_path)


def test_frames_that_are_announced_and_missing_are_skipped_in_no_time(tracker, tmp_path):
    bad.avi_of_frames(2**32 - 1)(tmp_path / "endless.avi")
    outcome = tracker(tmp_path / "endless.avi", tmp_path / "out", "--skip-unreadable")
    assert outcome.status == 0, outcome
    assert len(list((tmp_path / "out/endless").glob("*.png"))) == 6


def test_all_frames_of_a_video_are_tracked_that_announces_too_few(tracker, tmp_path):
    bad.avi_of_frames(2)(tmp_path / "few.avi")
    assert tracker(tmp_path / "few.avi", tmp_path / "out").status == 0
    assert len(list((tmp_path / "out/few").glob("*.png"))) == 6


@pytest.mark.parametrize("name", ["n" * 251 + ".mp4", os.fsdecode(b"\xff.mp4")], ids=["long", "no text"])
def test_a_video_with_an_odd_name_is_tracked_once(tracker, tmp_path, name):
    bad.video(tmp_path / "film.mp4")
    (tmp_path / "film.mp4").rename(tmp_path / name)
    assert tracker(tmp_path / name, tmp_path / "out").status == 0
    again = tracker(tmp_path / name, tmp_path / "out")
    assert again.status == 0 and "nothing left to do" in again.out


def test_results_inside_the_frames_are_no_frames(tracker, tmp_path):
    for number in range(3):
        bad.good_picture(tmp_path / f"frames/{number:05d}.png", (48, 64))
    assert tracker(tmp_path / "frames", tmp_path / "frames/out").status == 0
    again = tracker(tmp_path / "frames", tmp_path / "frames/out")
    assert again.status == 0 and "nothing left to do" in again.out
    assert len(list((tmp_path / "frames/out/frames").glob("*.png"))) == 3


def test_frames_too_thin_for_the_encoder_and_frames_of_one_name_are_refused(tracker, tmp_path):
    bad.good_picture(tmp_path / "thin/0.png", (1, 20_000))
    outcome = tracker(tmp_path / "thin", tmp_path / "out", box="0,0,5,1")
    assert outcome.status == 2 and "too thin" in outcome.err
    bad.good_picture(tmp_path / "same/0.png")
    bad.good_picture(tmp_path / "same/0.jpg")
    outcome = tracker(tmp_path / "same", tmp_path / "out2")
    assert outcome.status == 2 and "2 frames have the name 0" in outcome.err


@pytest.mark.parametrize(
    ("make", "says"),
    [(os.mkfifo, "it is a pipe"), (bad.png_header, "more than the"), (bad.linked("/dev/zero"), "device")],
    ids=["pipe", "bomb", "device"],
)
def test_check_and_score_name_bad_files(watched, tmp_path, make, says):
    write_strips(tmp_path / "data")
    (tmp_path / "data/images/2.png").unlink()
    make(tmp_path / "data/images/2.png")
    options = ["--tiles", 0, "--output", tmp_path / "sheet", *overrides(tmp_path / "data", 1), "val_dataloader=null"]
    outcome = watched(command, "check", "--config", CONFIG, *options, "val_evaluator=null", "val_cfg=null")
    assert outcome.status == 1, outcome
    assert "2.png cannot be read" in outcome.out and says in outcome.out
    for folder in ("gt/v", "res/v"):
        for number in range(4):
            path = tmp_path / folder / f"{number:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(16, dtype=np.uint8)).save(path)
    (tmp_path / "res/v/00001.png").unlink()
    make(tmp_path / "res/v/00001.png")
    outcome = watched(command, "score", "--input", tmp_path / "res", "--annotations", tmp_path / "gt")
    assert outcome.status == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ") and "00001.png" in line and says in line
