"""Files that come, go and change while they are read, folders of many, and the limit of pixels that the user sets."""

import json
import os
import sqlite3
from pathlib import Path

import bad_files as bad
import pytest
import torch
from small_segmenters import save_segmenter

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import UnreadableFile, UserError, printable
from pe_spatial.common.memory import MAX_PIXELS, available_memory, check_pixels
from pe_spatial.common.names import output_stems, short_name
from pe_spatial.common.pictures import read_image
from pe_spatial.common.sources import outside, resolve_sources
from pe_spatial.common.video import VideoReader, VideoWriter
from pe_spatial.inference import stream
from pe_spatial.inference.predictor import Predictor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("model") / "model.pth")


def predict(checkpoint, source, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    return run_command("predict", [str(argument) for argument in arguments])


def listed(output):
    content = json.loads((output / "segmentation.json").read_text())
    return {entry["file_name"] for entry in content["files"]}


@pytest.mark.parametrize("change", ["vanishes", "shrinks", "grows", "becomes a pipe"])
def test_a_file_that_changes_while_the_run_goes_on(checkpoint, tmp_path, capsys, monkeypatch, change):
    for name in "abc":
        bad.good_picture(tmp_path / f"in/{name}.png")
    path, real = tmp_path / "in/b.png", stream.stream

    def changed(*arguments, **options):  # after the files were listed, before the first is read
        if change in ("vanishes", "becomes a pipe"):
            path.unlink()
        if change == "becomes a pipe":
            os.mkfifo(path)
        if change == "shrinks":
            os.truncate(path, 100)
        if change == "grows":
            path.write_bytes(path.read_bytes() + bytes(10_000))
        return real(*arguments, **options)

    monkeypatch.setattr(stream, "stream", changed)
    status = predict(checkpoint, tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr(stream, "stream", real)
    fine = {"a.png", "c.png"} | ({"b.png"} if change == "grows" else set())
    assert (status, listed(tmp_path / "out")) == (int(change != "grows"), fine)
    assert change == "grows" or "b.png cannot be read" in capsys.readouterr().err
    path.unlink(missing_ok=True)
    bad.good_picture(path, (40, 40))
    assert predict(checkpoint, tmp_path / "in", tmp_path / "out") == 0  # also what was read before it changed
    assert "2 of 3 files were done" in capsys.readouterr().out
    assert listed(tmp_path / "out") == {"a.png", "b.png", "c.png"} and not (tmp_path / "out/failed.json").exists()


def test_an_error_of_the_disk_ends_the_run_at_once(checkpoint, tmp_path, capsys, monkeypatch):
    for number in range(40):  # more than are read ahead
        bad.good_picture(tmp_path / f"in/{number}.png")

    def full(*_, **__):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("pe_spatial.common.records.Records.add", lambda *_, **__: full())
    with pytest.raises(sqlite3.OperationalError):  # the threads that read ahead have ended, or this would wait for them
        predict(checkpoint, tmp_path / "in", tmp_path / "out")


def test_a_list_with_impossible_names_is_done_up_to_them(checkpoint, tmp_path, capsys):
    bad.good_picture(tmp_path / "a.png")
    (tmp_path / "list.txt").write_bytes(b"a.png\nb\0c.png\nb\0c.mp4\n\xff.png\n" + b"x" * 300 + b".png\n")
    assert predict(checkpoint, tmp_path / "list.txt", tmp_path / "out") == 1
    assert listed(tmp_path / "out") == {"a.png"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("not read or predicted")]
    assert len(lines) == 4 and all(any(part in line for line in lines) for part in ("b\\x00c.png", "xxx", "\\udcff"))


def test_a_path_too_long_for_its_results_is_named(checkpoint, tmp_path, capsys):
    bad.good_picture(tmp_path / "in/good.png")
    here = Path.cwd()
    try:
        os.chdir(tmp_path / "in")
        for _ in range((4000 - len(str(tmp_path))) // 201):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        bad.good_picture(Path("a.png"))
    finally:
        os.chdir(here)
    assert predict(checkpoint, tmp_path / "in", tmp_path / ("out" * 60)) == 1
    assert "too long" in capsys.readouterr().err
    assert listed(tmp_path / ("out" * 60)) == {"good.png"}


def test_ten_thousand_files_are_listed_and_named(tmp_path):
    for number in range(10_000):
        (tmp_path / f"{number}.jpg").touch()
    sources = resolve_sources(tmp_path)
    assert len(sources) == 10_000 and len(set(output_stems(entry.name for entry in sources).values())) == 10_000
    assert len(outside(sources, tmp_path / "out")) == 10_000


def test_the_results_are_no_inputs_and_never_replace_them(tmp_path):
    for name in ("a.png", "out/b.png", "outer/c.png"):
        bad.good_picture(tmp_path / name)
    assert [entry.name for entry in outside(resolve_sources(tmp_path), tmp_path / "out")] == ["a.png", "outer/c.png"]
    with pytest.raises(UserError, match="is the folder of the input"):
        outside(resolve_sources(tmp_path), tmp_path / "out/..")
    with pytest.raises(UserError, match="only files of the output folder"):
        outside(resolve_sources(str(tmp_path / "**/b.png")), tmp_path / "out/../out/.")


# --- the limit of pixels ----------------------------------------------------------------------------------------------
def test_the_limit_is_an_option_a_keyword_and_an_environment_variable(checkpoint, tmp_path, capsys, monkeypatch):
    picture = bad.good_picture(tmp_path / "a.png", (20, 30))
    assert predict(checkpoint, picture, tmp_path / "out", "--max-pixels", 599) == 1
    assert "20 x 30 pixels (H x W) are 600, more than the limit of 599" in capsys.readouterr().err
    assert MAX_PIXELS not in os.environ
    assert predict(checkpoint, picture, tmp_path / "out", "--max-pixels", 600) == 0
    with pytest.raises(UnreadableFile, match="more than the limit of 599"):
        Predictor(checkpoint, "cpu", max_pixels=599)(picture)
    with pytest.raises(UnreadableFile, match="more than the limit of 599"):
        Predictor(checkpoint, "cpu", max_pixels=599)(picture.read_bytes())
    assert "pred_sem_seg" in Predictor(checkpoint, "cpu", max_pixels=600)(picture)
    with pytest.raises(UserError, match="max_pixels 0"):
        Predictor(checkpoint, "cpu", max_pixels=0)
    monkeypatch.setenv(MAX_PIXELS, "599")
    with pytest.raises(UnreadableFile, match="more than the limit of 599"):
        read_image(picture)
    assert read_image(picture, max_pixels=600).shape == (3, 20, 30)
    bad.video(tmp_path / "a.mp4")
    with pytest.raises(UnreadableFile, match="frames of 48 x 64 pixels"):
        VideoReader(tmp_path / "a.mp4")
    monkeypatch.setenv(MAX_PIXELS, "many")
    with pytest.raises(UserError, match="'many'; it must be a number of pixels"):
        read_image(picture)


def test_the_limit_follows_the_memory_and_pillow_keeps_its_own(monkeypatch, tmp_path):
    assert available_memory() > 0
    monkeypatch.setattr("pe_spatial.common.memory.available_memory", lambda: 64 * 20_000_000)
    check_pixels(4000, 5000)
    with pytest.raises(UserError, match="more than the limit of 20,000,000"):
        check_pixels(4000, 5001)
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(bad.good_picture(tmp_path / "a.png")).shape == (3, 24, 32)
    assert Image.MAX_IMAGE_PIXELS == 10


# --- names ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b.jpg", "a b.jpg"),
        ("é👩‍🚀\u3000.jpg", "é👩‍🚀\u3000.jpg"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b]0;x\x07\x9b", "\\x1b]0;x\\x07\\x9b"),
        ("\u202e\u2028", "\\u202e\\u2028"),
        (os.fsdecode(b"\xff"), "\\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert printable(text) == shown
    assert str(UnreadableFile(text)) == shown
    assert str(UserError("a\nb")) == "a\nb"  # several mistakes, a line each


def test_names_of_255_bytes_leave_room_and_never_meet():
    names = ["é" * 125 + end for end in ("a", "b")]
    short = [short_name(name) for name in names]
    assert short[0] != short[1] and all(len(os.fsencode(name)) < 200 for name in short)
    assert short_name("a.b") == "a.b"


# --- videos -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rate", [1e-9, 1e9, 25.0])
@pytest.mark.parametrize("moment", [float("nan"), float("inf"), -1e9, 1e18])
def test_absurd_times_make_a_video_all_the_same(tmp_path, rate, moment):
    with VideoWriter(tmp_path / "a.mp4", rate) as writer:
        for time in (0.0, moment, None):
            writer.write(torch.zeros(3, 16, 16, dtype=torch.uint8), time, moment)
    assert len(list(VideoReader(tmp_path / "a.mp4"))) == 3
