"""pe-spatial predict with several checkpoints: a folder of results each, finished together."""

import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from kills import finished, results, start_process, status_of
from PIL import Image
from shared_models import save_shared

from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import VideoWriter
from pe_spatial.depth.results import DepthWriter
from pe_spatial.inference.predictor import Predictor

NAMES = {"det": "det", "seg": "seg", "depth": "depth"}
LISTS = {"det": "predictions.json", "seg": "segmentation.json", "depth": "depth.json"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three checkpoints, and an input of pictures, a video and a file that is no picture."""
    folder = tmp_path_factory.mktemp("shared")
    for name in NAMES:
        save_shared(folder / f"{name}.pth", name)
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for number, size in enumerate([(48, 64), (64, 40), (64, 64)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / "in" / f"{number}.png")
    with VideoWriter(folder / "in" / "film.mp4", rate=10) as video:
        for _ in range(3):
            video.write(torch.from_numpy(rng.integers(0, 256, (3, 32, 48), np.uint8)))
    (folder / "in" / "broken.jpg").write_bytes(b"no picture")
    return folder


def without_videos(folder):
    """The files of the results; of a drawn video only that it is there, for its encoder decides on its bytes."""
    return {name: b"" if name.endswith(".mp4") else content for name, content in results(folder).items()}


def predict(place, output, *options, names=NAMES):
    given = [text for name in names for text in ("--checkpoint", f"{name}={place / NAMES[name]}.pth")]
    arguments = [*given, "--input", place / "in", "--output", output, "--device", "cpu", *options]
    return run_command("predict", [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(place):
    assert predict(place, place / "whole") == 1  # one file is not a picture
    return place / "whole"


def test_each_folder_is_that_of_a_run_alone(place, whole):
    for name, task in NAMES.items():
        alone = ["--checkpoint", place / f"{task}.pth", "--input", place / "in", "--output", place / f"alone_{name}"]
        assert run_command("predict", [*map(str, alone), "--device", "cpu"]) == 1
        ours, theirs = without_videos(whole / name), without_videos(place / f"alone_{name}")
        assert LISTS[name] in ours and "failed.json" in ours and ours == theirs


def test_each_picture_is_read_once_and_only_what_is_missing_again(place, whole, tmp_path, monkeypatch, capfd):
    read = []
    load = Predictor.load

    def noted(self, picture, *channels):
        read.append(getattr(picture, "name", "frame"))
        return load(self, picture, *channels)

    monkeypatch.setattr(Predictor, "load", noted)
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    (output / "seg" / "labels" / "1.png").unlink()  # of one model alone
    assert predict(place, output) == 1
    assert sorted(read) == ["1.png", "broken.jpg"]
    text = "".join(capfd.readouterr())
    assert "det, seg, depth share one pass of tiny" in text and "3 of 5 files were done by an earlier run" in text
    assert all(without_videos(output / name) == without_videos(whole / name) for name in NAMES)


def test_a_picture_is_finished_for_all_or_for_none(place, tmp_path, monkeypatch):
    """A run that ends while a model's files are written leaves the picture out of the lists of all."""
    describe = DepthWriter.describe

    def full(self, stem, *rest):
        if stem == "1":
            raise OSError(28, "No space left on device")
        return describe(self, stem, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(DepthWriter, "describe", full)
        assert predict(place, tmp_path, names=("det", "depth")) == 2
    lists = {"det": ("predictions.json", "images"), "depth": ("depth.json", "files")}
    listed = [
        {row["file_name"] for row in json.loads((tmp_path / name / file).read_text())[key]}
        for name, (file, key) in lists.items()
    ]
    assert listed[0] == listed[1] and "1.png" not in listed[0]
    assert predict(place, tmp_path, names=("det", "depth")) == 1
    assert without_videos(tmp_path / "det") == without_videos(place / "whole" / "det")


def die_while_the_second_is_written(place, output):
    describe = DepthWriter.describe

    def dying(self, stem, *rest):
        if stem == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return describe(self, stem, *rest)

    DepthWriter.describe = dying
    torch.set_num_threads(1)
    sys.exit(predict(place, output))


def test_a_kill_between_two_models_leaves_the_picture_to_the_next_run(place, whole, tmp_path):
    assert status_of(start_process(die_while_the_second_is_written, place, tmp_path)) == -signal.SIGKILL
    assert all("1.png" not in finished(tmp_path / name) for name in NAMES)
    assert predict(place, tmp_path) == 1
    assert all(without_videos(tmp_path / name) == without_videos(whole / name) for name in NAMES)


def test_options_go_to_the_models_that_take_them(place, tmp_path):
    options = ("--npy", "--threshold", "0.9", "--confidence", "--no-pictures", "--limit", "1", "seg.model.window=null")
    assert predict(place, tmp_path, *options) == 0
    assert (tmp_path / "depth/depth/0_depth_m.npy").is_file() and (tmp_path / "seg/confidence/0.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--checkpoint", "seg={place}/det.pth"], "the name 'seg' is given twice"),
        (["--checkpoint", "a/b={place}/det.pth"], "a name has no slash"),
        (["--checkpoint", "{place}/det.pth"], "several checkpoints need a name each"),
        (["--checkpoint", "b=nowhere"], "nowhere: no such checkpoint"),
        (["model.window=null"], "write the name first: seg.model.window=null"),
        (["--slices", "64"], "--slices is for detection, but "),
    ],
)
def test_mistakes_of_the_command(place, tmp_path, arguments, text, capfd):
    try:
        status = predict(place, tmp_path, *(part.format(place=place) for part in arguments), names=("seg",))
    except SystemExit as end:
        status = end.code
    error = capfd.readouterr().err
    assert status == 2 and text in error and "Traceback" not in error
