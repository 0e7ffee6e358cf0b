"""Frames of videos: the official rule, the right pixels, and only those in memory."""

import json
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from small_plm import DATA
from torchvision.transforms import InterpolationMode, Resize

import pe_spatial.plm.video as module
from pe_spatial.common.errors import OptionError, UnreadableFile
from pe_spatial.common.video import VideoFrame, VideoWriter
from pe_spatial.plm.video import choose_frames, read_frames, resize_frames

ROWS = json.loads((DATA / "plm_video_frames.json").read_text())["rows"]


@pytest.mark.parametrize(("count", "rate", "most", "expected"), ROWS)
def test_frames_are_the_official_ones(count, rate, most, expected):
    assert len(ROWS) == 8
    assert choose_frames(count, rate, most) == expected


def test_frames_exist_rise_and_span_the_video():
    for count in (2, 3, 31, 32, 33, 64, 500, 961):
        for rate in (0.2, 1, 5, 23.976, 30, 240):
            for most in (1, 2, 8, 32):
                found = choose_frames(count, rate, most)
                assert found == sorted(set(found))
                assert found[0] == 0
                assert found[-1] < count
                assert len(found) == min(most, count)


@pytest.mark.parametrize(("count", "most"), [(0, 8), (8, 0)])
def test_counts_below_one_are_refused(count, most):
    with pytest.raises(OptionError, match="0 must be at least 1"):
        choose_frames(count, 30, most)


def write_video(path, count, rate=4.0):
    """Frames of growing brightness, by which they are known again."""
    with VideoWriter(path, rate) as writer:
        for number in range(count):
            writer.write(torch.full((3, 32, 48), 4 * number % 256, dtype=torch.uint8))
    return path


def numbers_of(frames):
    return [round(float(frame.float().mean()) / 4) for frame in frames]


@pytest.mark.parametrize(
    ("count", "most", "suffix"),
    [(40, 8, "mkv"), (40, 16, "mp4"), (5, 32, "mkv"), (1, 8, "mp4"), (1, 8, "mkv"), (2, 1, "mp4")],
)
def test_the_chosen_frames_are_read(tmp_path, count, most, suffix):
    path = tmp_path / "clip.mp4"
    write_video(path, count)
    if suffix != "mp4":
        path = remux(path, tmp_path / f"clip.{suffix}")
    frames = read_frames(path, 16, most)
    expected = [number for number in choose_frames(count, 4, most) if number < count]
    assert frames.shape == (len(expected), 3, 16, 16)
    assert frames.dtype == torch.uint8
    assert numbers_of(frames) == expected


def remux(source, target):
    av = pytest.importorskip("av")
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    return target


def test_frames_are_resized_as_upstream_on_tensors():
    frames = torch.randint(256, (2, 3, 40, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    theirs = Resize((16, 16), interpolation=InterpolationMode.BICUBIC, antialias=True)(frames)
    assert torch.equal(resize_frames(frames, 16), theirs)
    assert torch.equal(torch.cat([resize_frames(frame[None], 16) for frame in frames]), theirs)


def test_only_the_chosen_frames_are_held(monkeypatch, tmp_path):
    alive = weakref.WeakSet()

    class Reader:
        frame_rate = 10.0

        def __init__(self, path):
            pass

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda *_: None  # noqa: E731

        def __iter__(self):
            for number in range(395):
                image = torch.zeros(3, 64, 64, dtype=torch.uint8)
                alive.add(image)
                assert len(alive) <= 3
                yield VideoFrame(number, number / 10, image)
                del image

    monkeypatch.setattr(module, "VideoReader", Reader)
    monkeypatch.setattr(module, "measure_frames", lambda path: (395, None))
    frames = read_frames(tmp_path / "x.mp4", 8, 4)
    assert len(frames) == 4


def test_frames_that_are_announced_but_missing_are_said(monkeypatch, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 10)
    monkeypatch.setattr(module, "measure_frames", lambda path: (12, 4.0))
    with pytest.warns(UserWarning, match=r"clip.mp4: 2 of 12 frames do not exist, from number 10 on"):
        assert len(read_frames(path, 8, 32)) == 10


def test_a_video_without_frames_is_named(tmp_path):
    for name, content in (("empty.mp4", b""), ("text.mp4", b"no video at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableFile, match=name):
            read_frames(tmp_path / name, 8)
    with pytest.raises(UnreadableFile, match=r"no such file"):
        read_frames(tmp_path / "absent.mp4", 8)


def test_a_cut_video_is_named(tmp_path):
    path = remux(write_video(tmp_path / "clip.mp4", 200, rate=25), tmp_path / "clip.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableFile, match=r"clip.mkv: frame \d+.* cannot be decoded"):
        read_frames(path, 8)


def test_a_gif_is_a_video(tmp_path):
    frames = [Image.fromarray(np.full((16, 16, 3), 60 * number, np.uint8)) for number in range(4)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    assert len(read_frames(tmp_path / "clip.gif", 8)) == 4
