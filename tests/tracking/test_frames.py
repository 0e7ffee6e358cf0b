import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.tracking.frames import missing_numbers, open_frames
from pe_spatial.tracking.masks import read_mask


def write_frames(folder, names, size=(24, 32)):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 20 * number, np.uint8)).save(folder / f"{name}.png")
    return folder


def write_video(path, count=6, size=(48, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, size[::-1])
    for number in range(count):
        writer.write(np.full((*size, 3), (0, 0, 40 * number), np.uint8))  # BGR: shades of red
    writer.release()
    return path


def test_a_folder_gives_its_images_in_natural_order(tmp_path):
    frames = open_frames(write_frames(tmp_path / "clip", ["9", "10", "11"]))
    assert (frames.name, frames.count) == ("clip", 3)
    assert [(frame.number, frame.name) for frame in frames] == [(0, "9"), (1, "10"), (2, "11")]
    image = next(iter(frames)).image
    assert image.dtype == torch.uint8 and image.shape == (3, 24, 32)


def test_a_video_is_decoded_as_rgb(tmp_path):
    frames = open_frames(write_video(tmp_path / "street.mp4"))
    assert (frames.name, frames.count, frames.rate) == ("street", 6, 12)
    pictures = list(frames)
    assert [frame.name for frame in pictures] == [f"{number:05d}" for number in range(6)]
    red, green, blue = pictures[5].image.float().mean(dim=(1, 2))
    assert red > 150 and green < 30 and blue < 30


def test_gaps_in_a_numbering_are_found():
    assert missing_numbers(["00000", "00001", "00003", "00004"]) == ["00002"]
    assert missing_numbers(["00000", "00005", "00010", "00020", "00025"]) == ["00015"]
    assert missing_numbers(["a1", "a2", "a9"]) == missing_numbers(["1", "7"]) == missing_numbers(["1", "1", "1"]) == []


def test_a_missing_frame_stops_and_is_named_unless_skipped(tmp_path):
    folder = write_frames(tmp_path, ["00000", "00001", "00003", "00004"])
    with pytest.raises(UnreadableFile, match="frame 00002 is missing"):
        open_frames(folder)
    frames = open_frames(folder, skip_unreadable=True)
    assert len(list(frames)) == 4 and frames.skipped == ["00002"]


def test_a_damaged_frame_stops_and_is_named_unless_skipped(tmp_path):
    folder = write_frames(tmp_path, ["00000", "00001", "00002"])
    (folder / "00001.png").write_bytes((folder / "00001.png").read_bytes()[:40])
    with pytest.raises(UnreadableFile, match=r"00001\.png.*--skip-unreadable"):
        list(open_frames(folder))
    frames = open_frames(folder, skip_unreadable=True)
    assert [(frame.number, frame.name) for frame in frames] == [(0, "00000"), (2, "00002")]
    assert frames.skipped == ["00001"]


@pytest.fixture
def damaged(tmp_path):
    """A video of 10 frames, the frame 3 of which is zeros."""
    path = tmp_path / "damaged.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    content = path.read_bytes()
    start, end = [found.start() for found in re.finditer(b"00dc", content[content.index(b"movi") :])][3:5]
    start, end = (place + content.index(b"movi") for place in (start + 8, end))
    path.write_bytes(content[:start] + bytes(end - start) + content[end:])
    return path


def test_a_video_frame_that_cannot_be_decoded_stops_unless_skipped(damaged):
    with pytest.raises(UnreadableFile, match="frame 3 of 10.*--skip-unreadable"):
        list(open_frames(damaged))
    frames = open_frames(damaged, skip_unreadable=True)
    decoded = list(frames)
    assert [frame.number for frame in decoded] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [frame.time for frame in decoded] == pytest.approx([frame.number / 25 for frame in decoded])
    assert frames.skipped == ["00003"]


def test_a_video_that_is_cut_short_stops_unless_skipped(damaged):
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(len(content) * 0.9)])
    frames = open_frames(damaged, skip_unreadable=True)
    decoded = [frame.name for frame in frames]
    assert 3 <= len(decoded) < 9 and frames.skipped[0] == "00003"
    assert sorted(decoded + frames.skipped) == [f"{number:05d}" for number in range(10)]


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no image"):
        open_frames(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        open_frames(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        open_frames(tmp_path / "text.mp4")
    with pytest.raises(FileNotFoundError, match="list of frames is empty"):
        open_frames([])


def test_masks(tmp_path):
    path = tmp_path / "mask.png"
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    image = Image.fromarray(ids)
    image.putpalette(list(range(256)) * 3)
    image.save(path)
    assert read_mask(path).tolist() == [[0, 1, 2, 0]]
    assert read_mask(path, only=[2]).tolist() == [[0, 0, 2, 0]]
    assert read_mask(path, binary=True).tolist() == [[0, 1, 1, 1]]
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(path)
    assert read_mask(path).tolist() == [[0, 1]]
    Image.fromarray(np.full((2, 2, 3), (1, 2, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="contains colors"):
        read_mask(path)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_mask(path)
    with pytest.raises(UnreadableFile, match="no such file"):
        read_mask(tmp_path / "none.png")
