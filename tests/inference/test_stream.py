"""Reading ahead of the model: bounded in pixels, in order, without a standstill; and where files lie in the output."""

import sys
import threading

import numpy as np
import pytest
from PIL import Image

from pe_spatial.common.errors import UserError
from pe_spatial.common.sources import source_root
from pe_spatial.inference.predictor import Predictor
from pe_spatial.inference.stream import count_pictures, find_sources, stream

STREAM = sys.modules["pe_spatial.inference.stream"]  # the package offers the function by the same name


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures of 100 to 6400 pixels."""
    for number, side in enumerate((10, 80, 10, 30, 80, 40, 10, 20)):
        Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(tmp_path / f"{number}.png")
    return find_sources(tmp_path)


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
        find_sources(tmp_path)
    assert count_pictures([]) == 0


def test_a_bug_while_files_are_listed_is_raised_and_does_not_hang(finished, pictures, monkeypatch):
    def broken(files):
        yield from ((STREAM.Source(path), path) for path in pictures[:3])
        raise AttributeError("a bug")

    monkeypatch.setattr(STREAM, "_pictures", broken)
    with pytest.raises(AttributeError, match="a bug"):
        list(stream(Predictor(finished[1], "cpu"), pictures))
