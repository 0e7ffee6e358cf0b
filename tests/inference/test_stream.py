"""Reading ahead of the model: bounded in pixels, in order, without a standstill; and where files lie in the output."""

import sys
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.errors import PictureError, UserError
from pe_spatial.common.sources import resolve_sources, source_root
from pe_spatial.common.video import VideoWriter
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.stream import count_pictures, stream

STREAM = sys.modules["pe_spatial.inference.stream"]


def files_of(source):
    return [entry.path for entry in resolve_sources(source)]


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures of 100 to 6400 pixels."""
    for number, side in enumerate((10, 80, 10, 30, 80, 40, 10, 20)):
        Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(tmp_path / f"{number}.png")
    return files_of(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("limit", [1, 1000, 7000, 10**6])
def test_every_picture_comes_through_whatever_may_wait(finished, pictures, monkeypatch, batch_size, limit):
    monkeypatch.setattr(STREAM, "_PIXELS_AHEAD", limit)
    predictor = Predictor(finished[1], "cpu", batch_size)
    lock, inside, most = threading.Lock(), [], []
    load, predict = predictor.load, predictor.predict

    def counted_load(path):
        sample = load(path)
        with lock:
            inside.append(sample["img"].shape[-1] ** 2)
            most.append((sum(inside), len(inside)))
        return sample

    def counted_predict(samples):
        found = predict(samples)
        with lock:
            for sample in samples:
                inside.remove(sample["data_samples"].ori_shape[0] ** 2)  # by size: threads finish in any order
        return found

    monkeypatch.setattr(predictor, "load", counted_load)
    monkeypatch.setattr(predictor, "predict", counted_predict)
    assert [result.source.path for result in stream(predictor, pictures)] == pictures
    assert all(pixels <= limit or number == 1 for pixels, number in most)


def test_a_run_that_is_left_while_pictures_wait_ends(finished, pictures, monkeypatch):
    monkeypatch.setattr(STREAM, "_PIXELS_AHEAD", 1)
    before = set(threading.enumerate())
    results = stream(Predictor(finished[1], "cpu"), pictures)
    next(results)
    results.close()
    assert set(threading.enumerate()) <= before


def test_the_root_does_not_depend_on_the_files_that_exist(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1.png").touch()
    assert source_root(tmp_path) == tmp_path
    assert source_root(tmp_path / "a/b/1.png") == tmp_path / "a/b"
    assert source_root(f"{tmp_path}/a/**/*.png") == tmp_path / "a"
    assert source_root(f"{tmp_path}/*/b/*.png") == tmp_path


def test_hidden_files_are_no_input(tmp_path):
    (tmp_path / "._1.png").touch()  # what some systems leave beside every file
    with pytest.raises(UserError, match="no image or video"):
        files_of(tmp_path)
    assert count_pictures([]) == 0


# --- pictures that fail -----------------------------------------------------------------------------------------------
class Fragile(Predictor):
    """Fails on pictures of 80 x 80 pixels, and on batches of more than two."""

    error = MemoryError()

    def predict(self, samples):
        if any(sample["data_samples"].ori_shape == (80, 80) for sample in samples):
            raise self.error
        if len(samples) > 2:
            raise torch.OutOfMemoryError("a batch of more than two")
        return super().predict(samples)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        PictureError("an image of (80, 80) (H, W) does not fit"),
    ],
)
def test_one_picture_that_fails_is_named_and_the_rest_is_done(finished, pictures, monkeypatch, batch_size, error):
    monkeypatch.setattr(Fragile, "error", error)
    results = list(stream(Fragile(finished[1], "cpu", batch_size), pictures))
    assert [result.source.path for result in results] == pictures
    failed = [result for result in results if result.error is not None]
    assert [result.source.path.name for result in failed] == ["1.png", "4.png"]
    assert all("80" in str(result.error) and isinstance(result.error, UserError) for result in failed)
    sizes = [(tuple(result.image.shape[-2:]), tuple(result.sample.ori_shape)) for result in results if not result.error]
    assert sizes == [((side, side), (side, side)) for side in (10, 10, 30, 40, 10, 20)]  # each has its own prediction


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), RuntimeError("a bug"), OSError("a bug of the disk")])
def test_bugs_are_raised(finished, pictures, monkeypatch, error):
    monkeypatch.setattr(Fragile, "error", error)
    with pytest.raises(type(error), match="a bug"):
        list(stream(Fragile(finished[1], "cpu"), pictures))


def test_a_bug_while_files_are_listed_is_raised(finished):
    with pytest.raises(TypeError):
        list(stream(Predictor(finished[1], "cpu"), [None]))


def test_the_rest_of_a_video_that_fails_is_left_out(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(STREAM, "_PIXELS_AHEAD", 1)  # so that the error comes before the rest is read
    with VideoWriter(tmp_path / "a.mp4", rate=10) as video:
        for number in range(12):
            video.write(torch.full((3, 80, 80), 20 * number, dtype=torch.uint8))
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "b.png")
    results = list(stream(Fragile(finished[1], "cpu"), files_of(tmp_path)))
    assert results[0].source.frame == 0 and results[0].error is not None
    assert results[-1].source.path.name == "b.png" and results[-1].error is None
    assert len(results) < 13
