import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.errors import UserError
from pe_spatial.common.records import Records
from pe_spatial.common.video import VideoReader
from pe_spatial.tracking.frames import Frame
from pe_spatial.tracking.results import ResultsError, TrackingWriter

RUN = {"tracker": "a", "input": "b"}


def frame(number):
    return Frame(number, f"{number:05d}", torch.full((3, 32, 48), 90, dtype=torch.uint8))


def ids(number):
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[4:12, number : number + 10] = 1
    mask[20:30, 30:40] = 200
    return mask


def open_writer(folder, run=RUN, draw=True, mot=False):
    writer = TrackingWriter(Records(folder, run), {"clip": "clip"}, Namespace(no_pictures=not draw, mot=mot))
    writer.plan({"clip": folder.parent})
    writer.begin("clip", 10)
    return writer


def write(folder, count=4, **options):
    writer = open_writer(folder, **options)
    for number in range(count):
        writer.add(frame(number), ids(number))
    writer.finish()
    writer.close()
    return folder


def test_a_palette_png_holds_the_numbers(tmp_path):
    write(tmp_path / "out")
    image = Image.open(tmp_path / "out" / "clip" / "00003.png")
    assert image.mode == "P" and np.array_equal(np.array(image), ids(3).numpy())
    colors = np.array(image.convert("RGB"))
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 3 and not colors[0, 0].any()


def test_everything_is_written(tmp_path):
    out = write(tmp_path / "out", mot=True)
    assert sorted(path.name for path in (out / "clip").iterdir()) == [f"{n:05d}.png" for n in range(4)]
    boxes = json.loads((out / "clip.json").read_text())
    assert boxes["frames"] == 4 and boxes["objects"].keys() == {"1", "200"}
    assert boxes["objects"]["1"][2] == {"frame": "00002", "box": [2, 4, 12, 12], "area": 80}
    lines = (out / "clip.txt").read_text().splitlines()
    assert len(lines) == 8 and lines[0] == "1,1,0,4,10,8,1,-1,-1,-1"
    with VideoReader(out / "clip.mp4") as video:
        assert video.count == 4 and video.frame_rate == 10
        picture = next(iter(video)).image.permute(1, 2, 0).int().numpy()
    assert abs(picture[24, 5] - 90).max() < 12 and np.ptp(picture[8, 5]) > 40  # gray outside, tinted inside
    expected = [{"video": "clip", "frames": 4, "masks": "clip", "boxes": "clip.json"}]
    assert json.loads((out / "tracks.json").read_text()) == {"videos": expected}


def test_a_shorter_version_of_a_video_leaves_nothing_of_the_longer_one(tmp_path):
    out = write(tmp_path / "out")
    (tmp_path / "touched").write_text("")  # changes the folder that stands for the video
    write(out, count=2)
    assert [path.name for path in sorted((out / "clip").iterdir())] == ["00000.png", "00001.png"]


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "out" / "clip").mkdir(parents=True)
    (tmp_path / "out" / "clip" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="unknown origin; give another --output"):
        open_writer(tmp_path / "out")
    assert (tmp_path / "out" / "clip" / "notes.txt").read_text() == "mine"


def test_a_folder_of_another_run_is_refused_and_the_same_run_goes_on(tmp_path):
    write(tmp_path / "out")
    open_writer(tmp_path / "out", dict(RUN)).close()
    with pytest.raises(UserError, match="another run.*input 'b' instead of 'c'"):
        open_writer(tmp_path / "out", {**RUN, "input": "c"})


def test_an_interruption_leaves_whole_files_and_the_state(tmp_path):
    writer = open_writer(tmp_path / "out")
    state = {"frame": 2, "memory": {"keys": torch.ones(3)}, "ids": [1], "sizes": ()}
    writer.add(frame(0), ids(0))
    writer.add(frame(1), ids(1))
    writer.save_state(state)  # younger than the interval: not saved
    assert writer.load_state() is None
    writer.save_state(state, force=True)
    writer.discard_video("clip")
    writer.close()
    again = open_writer(tmp_path / "out")
    assert not list(again.finished())
    loaded = again.load_state()
    assert loaded["frame"] == 2 and torch.equal(loaded["memory"]["keys"], torch.ones(3))
    assert np.array_equal(again.read(frame(1)), ids(1).numpy())
    with pytest.raises(ResultsError, match="track this video from its start"):
        again.read(frame(2))
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and ".pe_spatial" not in path.parts}
    assert left == {"00000.png", "00001.png", "tracks.json"}
