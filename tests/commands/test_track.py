import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_checkpoints import tracked_dataset, tracker_config, write_videos

from pe_spatial.commands import track
from pe_spatial.commands.shell import parse, run_command
from pe_spatial.tracking.results import TrackingWriter


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    write_videos(root, frames=8)
    (root / "tiny.yaml").write_text(tracker_config() + tracked_dataset(root))
    return root


def run(root, out, *arguments):
    return run_command(
        "track", ["--config", str(root / "tiny.yaml"), "--output", str(out), "--device", "cpu", *arguments]
    )


def single(root, out, *arguments):
    frames, mask = root / "JPEGImages/480p/first", root / "Annotations/480p/first/00000.png"
    return run(root, out, "--input", str(frames), "--mask", str(mask), *arguments)


def results(out, name="first"):
    return {path.name: np.array(Image.open(path)) for path in sorted((out / name).glob("*.png"))}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_a_data_set_is_tracked_and_scored_and_the_score_command_agrees(root, tmp_path, capsys):
    assert run(root, tmp_path / "out") == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert 0.3 < scores["global"]["J&F"] < 1
    assert "all objects" in capsys.readouterr().out
    arguments = ["--input", str(tmp_path / "out"), "--output", str(tmp_path / "again.json")]
    assert run_command("score", [*arguments, "--annotations", str(root / "Annotations/480p")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == scores
    assert run_command("score", [*arguments, "--config", str(root / "tiny.yaml")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == scores


def test_skipped_frames_are_not_scored_in_a_later_run_either(root, tmp_path):
    copy = tmp_path / "davis"
    shutil.copytree(root, copy)
    (copy / "JPEGImages/480p/first/00004.png").write_bytes(b"no picture")
    command = ["--skip-unreadable", f"test_dataloader.dataset.data_root={copy}"]
    assert run(root, tmp_path / "out", *command) == 0
    scores = (tmp_path / "out/scores.json").read_text()
    (tmp_path / "out/scores.json").unlink()
    assert run(root, tmp_path / "out", *command) == 0
    assert (tmp_path / "out/scores.json").read_text() == scores
    assert json.loads((tmp_path / "out/first.json").read_text())["skipped"] == ["00004"]


def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_happened(root, tmp_path, monkeypatch):
    assert run(root, tmp_path / "whole", "--mot") == 0
    written = TrackingWriter.add

    def interrupted(self, frame, ids):
        if self._name == "second" and frame.number == 5:
            raise KeyboardInterrupt
        written(self, frame, ids)

    with monkeypatch.context() as patch:
        patch.setattr(TrackingWriter, "add", interrupted)
        assert run(root, tmp_path / "cut", "--mot") == 130
    assert len(results(tmp_path / "cut", "second")) == 5  # finished frames stay
    assert run(root, tmp_path / "cut", "--mot") == 0
    for name in ("first", "second"):
        assert same(results(tmp_path / "cut", name), results(tmp_path / "whole", name))
    for name in ("scores.json", "second.json", "second.txt"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_run_that_was_killed_goes_on_from_its_last_saved_state(root, tmp_path, monkeypatch):
    assert single(root, tmp_path / "whole") == 0
    monkeypatch.setattr("pe_spatial.tracking.results.SAVE_EVERY", 0)
    written = TrackingWriter.add

    class Killed(BaseException):
        pass

    def killed(self, frame, ids):
        written(self, frame, ids)
        if frame.number == 5:  # written, but the state is that of the frame before
            monkeypatch.setattr(TrackingWriter, "save_state", lambda *a, **k: None)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(TrackingWriter, "add", killed)
        with pytest.raises(Killed):
            single(root, tmp_path / "cut")
    monkeypatch.undo()
    assert torch.load(tmp_path / "cut/.pe_spatial/resume/first.pt", weights_only=True)["frame"] == 5
    assert single(root, tmp_path / "cut") == 0
    assert same(results(tmp_path / "cut"), results(tmp_path / "whole"))


def times(out):
    """When results were written; the list of videos is always made anew."""
    paths = [path for path in out.rglob("*") if ".pe_spatial" not in path.parts and path.name != "tracks.json"]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_a_complete_run_is_left_as_it_is(root, tmp_path, capsys):
    assert single(root, tmp_path / "out") == 0
    before = times(tmp_path / "out")
    assert single(root, tmp_path / "out") == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert times(tmp_path / "out") == before


def test_boxes_batches_and_late_objects(root, tmp_path):
    late = tmp_path / "late.png"
    Image.fromarray(np.pad(np.full((20, 20), 9, np.uint8), ((40, 4), (70, 6)))).save(late)
    frames = str(root / "JPEGImages/480p/first")
    boxes = ("--input", frames, "--box", "10,10,40,40", "--box", "5:50,5,90,30")
    assert run(root, tmp_path / "out", *boxes, "--at", f"3:{late}", "--batch", "3", "--limit", "6") == 0
    found = results(tmp_path / "out")
    assert len(found) == 6 and set(np.unique(found["00000.png"])) == {0, 1, 5}
    assert set(np.unique(found["00003.png"])) >= {0, 9} and (found["00003.png"][40:60, 70:90] == 9).all()
    boxes = json.loads((tmp_path / "out/first.json").read_text())["objects"]
    assert boxes["9"][0]["frame"] == "00003"


def test_the_documented_formats_of_prompts(monkeypatch, capsys):
    def given(*arguments):
        """Boxes and points that a video is made with."""
        base = ["--config", "c", "--output", "out", "--input", "a.mp4"]
        return track.input_video(parse("track", track, [*base, *arguments])[0])[3:]

    monkeypatch.setattr("pe_spatial.tracking.running.PromptedVideo", lambda *settings: settings)
    assert given("--box", "1,2,3,4", "--box", "7:1,2,3,4.5") == ({1: [1, 2, 3, 4], 7: [1, 2, 3, 4.5]}, {})
    points = {1: [(1, 2, True), (3, 4, False)], 2: [(5, 6, True)]}
    assert given("--point", "1,2", "--point", "1:3,4,0", "--point", "2:5,6") == ({}, points)
    for option, text in (("--box", "1,2,3"), ("--point", "1"), ("--box", "a,b,c,d"), ("--at", "x")):
        with pytest.raises(SystemExit, match="2"):
            given(option, text)
        assert re.search(rf"argument {option}: '{text}': write ", capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        given("--box", "x:1,2,3,4")
    assert "argument --box: 'x' is not an integer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--mask", "nowhere.png"], "no such file"),
        (["--input", "nowhere.mp4"], "nowhere.mp4"),
        (["--at", "3:nowhere.png"], "no such file"),
        (["--box", "7:200,0,210,9"], "no area"),
        (["model.resizing.short_sid=4"], "short_sid"),
        (["--weights", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_mistakes_end_with_a_message(root, tmp_path, capsys, change, message):
    assert single(root, tmp_path / "out", *change) == 2
    assert message in capsys.readouterr().err


def write_frames(folder, sizes):
    folder.mkdir()
    for number, size in enumerate(sizes):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder / f"{number:05d}.png")
    return folder


def test_bad_frames_end_with_a_message_and_keep_what_is_finished(root, tmp_path, capsys):
    box = ("--box", "2,2,30,30")
    frames = write_frames(tmp_path / "frames", [(64, 96)] * 5)
    (frames / "00003.png").write_bytes(b"broken")
    assert run(root, tmp_path / "out", "--input", str(frames), *box) == 2
    assert "00003.png" in capsys.readouterr().err and len(results(tmp_path / "out", "frames")) == 3
    skipping = ("--input", str(frames), *box, "--skip-unreadable")
    assert run(root, tmp_path / "skipped", *skipping) == 0
    assert list(results(tmp_path / "skipped", "frames")) == ["00000.png", "00001.png", "00002.png", "00004.png"]
    assert json.loads((tmp_path / "skipped/frames.json").read_text())["skipped"] == ["00003"]
    sizes = write_frames(tmp_path / "sizes", [(64, 96), (64, 96), (80, 96)])
    assert run(root, tmp_path / "other", "--input", str(sizes), *box) == 2
    assert "frame 2 is (80, 96)" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert run(root, tmp_path / "empty", "--input", str(tmp_path / "none"), *box) == 2
    assert "contains no image" in capsys.readouterr().err


def test_an_empty_or_foreign_mask_ends_with_a_message(root, tmp_path, capsys):
    mask = tmp_path / "mask.png"
    for pixels, message in ((np.zeros((64, 96)), "empty"), (np.ones((9, 9)), "resize the mask")):
        Image.fromarray(pixels.astype(np.uint8)).save(mask)
        assert single(root, tmp_path / message, "--mask", str(mask)) == 2
        assert message in capsys.readouterr().err


def test_a_folder_with_other_results_is_refused(root, tmp_path, capsys):
    assert single(root, tmp_path / "out") == 0
    assert single(root, tmp_path / "out", "model.recent=2") == 2
    assert "another run" in capsys.readouterr().err
    assert run_command("score", ["--input", str(tmp_path), "--annotations", str(root / "Annotations/480p")]) == 2
    assert "cannot be read: no such file" in capsys.readouterr().err
