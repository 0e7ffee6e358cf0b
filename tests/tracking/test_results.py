import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.tracking.frames import Frame
from pe_spatial.tracking.results import ResultsError, VideoResults, open_results

RUN = {"model": "a", "input": "b"}


def frame(number):
    return Frame(number, f"{number:05d}", torch.full((3, 32, 48), 90, dtype=torch.uint8))


def ids(number):
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[4:12, number : number + 10] = 1
    mask[20:30, 30:40] = 200
    return mask


def write(folder, count=4, **options):
    open_results(folder, RUN)
    with VideoResults(folder, "clip", 10, **options) as results:
        for number in range(count):
            results.write(frame(number), ids(number))
        results.finish([])
    return folder


def test_a_palette_png_holds_the_numbers(tmp_path):
    image = Image.open(write(tmp_path) / "clip" / "00003.png")
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
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and video.get(cv2.CAP_PROP_FPS) == 10
    picture = video.read()[1].astype(int)
    assert abs(picture[24, 5] - 90).max() < 12 and np.ptp(picture[8, 5]) > 40  # gray outside, tinted inside
    assert not list(out.rglob(".*partial*"))


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ResultsError, match="choose another --output"):
        open_results(tmp_path, RUN)
    with pytest.raises(ResultsError, match="not a folder"):
        open_results(tmp_path / "notes.txt", RUN)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_of_another_run_is_refused_and_the_same_run_goes_on(tmp_path):
    write(tmp_path / "out")
    open_results(tmp_path / "out", dict(RUN))
    with pytest.raises(ResultsError, match=r"input differ; input was 'b', now 'c'"):
        open_results(tmp_path / "out", {**RUN, "input": "c"})


def test_a_run_that_left_no_result_makes_room(tmp_path):
    open_results(tmp_path / "out", {"input": "misspelled"})
    with VideoResults(tmp_path / "out", "clip", 10):
        pass
    open_results(tmp_path / "out", RUN)
    assert json.loads((tmp_path / "out/run.json").read_text()) == RUN


def test_an_interruption_leaves_whole_files_and_the_state(tmp_path):
    open_results(tmp_path, RUN)
    state = {"frame": 2, "keys": torch.ones(3)}
    with pytest.raises(KeyboardInterrupt), VideoResults(tmp_path, "clip", 10) as results:
        results.write(frame(0), ids(0))
        results.write(frame(1), ids(1))
        results.save_state(state)  # younger than the interval: not saved
        assert results.load_state() is None
        results.save_state(state, force=True)
        raise KeyboardInterrupt
    again = VideoResults(tmp_path, "clip", 10)
    assert not again.finished
    loaded = again.load_state()
    assert loaded["frame"] == 2 and torch.equal(loaded["keys"], state["keys"])
    assert torch.equal(again.read(frame(1)), ids(1))
    with pytest.raises(ResultsError, match="track this video from its start"):
        again.read(frame(2))
    assert not list(tmp_path.glob("*.mp4")) and not list(tmp_path.rglob(".*partial*"))
