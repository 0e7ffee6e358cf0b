"""Video: writing and reading are inverse in time and picture, and what is missing is an error."""

import os
import re
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest
import torch

from pe_spatial.common.errors import FullDiskError, UnreadableFile, UserError
from pe_spatial.common.video import (
    Camera,
    UnreadableFrame,
    VideoFrame,
    VideoReader,
    VideoWriter,
    count_frames,
    is_video,
    measure_frames,
)
from pe_spatial.common.video.packets import Packets

UNEVEN = [0, 0.04, 0.2, 0.24, 1.0]


def picture(number, height=48, width=64):
    """A smooth picture that moves, in three different colors."""
    ramp = 60 + torch.arange(width) + torch.arange(height)[:, None] // 2
    return torch.stack([ramp, 200 - ramp, torch.full_like(ramp, 20 + 3 * number)]).clamp(0, 255).to(torch.uint8)


def write_video(path, times=UNEVEN, size=(48, 64), **options):
    with VideoWriter(path, **options) as writer:
        for number, time in enumerate(times):
            writer.write(picture(number, *size), time)
    return path


def encode(path, codec, count=50, rotation=0, options=None):
    """What other programs write."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(count):
            pixels = picture(number).permute(1, 2, 0).contiguous().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def copy_packets(path, target, shift=0.0, **options):
    """The same packets in a new file, earlier by some seconds."""
    with av.open(str(path)) as source, av.open(str(target), "w", **options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                ticks = round(shift / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, stream
                container.mux(packet)
    return target


FAST = {"movflags": "+faststart"}
DATA = {".mp4": b"mdat", ".avi": b"movi", ".mkv": bytes.fromhex("1f43b675")}  # where the frames begin
FORMATS = [("film.mp4", "libx264"), ("film.avi", "mpeg4"), ("motion.avi", "mjpeg"), ("film.mkv", "libx264")]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: encode(folder / name, codec) for name, codec in FORMATS}


# --- writing and reading ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("times", [UNEVEN, [number * 1001 / 24000 for number in range(30)], [0.5, 0.501, 7]])
def test_times_come_back(tmp_path, times):
    path = write_video(tmp_path / "out.mp4", times)
    frames = list(VideoReader(path))
    assert [frame.number for frame in frames] == list(range(len(times)))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=2e-6)
    steps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert [frame.duration for frame in frames[:-1]] == pytest.approx(steps, abs=2e-6)


def test_frames_without_times_come_at_the_rate_and_the_last_one_lasts(tmp_path):
    path = write_video(tmp_path / "out.mp4", [None] * 30, rate=24000 / 1001)
    video = VideoReader(path)
    assert (video.count, count_frames(path), video.size) == (30, 30, (48, 64))
    assert video.frame_rate == pytest.approx(24000 / 1001)
    with VideoWriter(path) as writer:
        writer.write(picture(0), 0.0, 3.0)
        writer.write(picture(1), 1.0, 2.5)
    assert [(frame.time, frame.duration) for frame in VideoReader(path)] == [(0, 1), (1, 2.5)]


def test_pictures_come_back_within_the_codec_and_odd_sides_grow_by_one(tmp_path):
    path = write_video(tmp_path / "out.mp4", size=(47, 63))
    video = VideoReader(path)
    assert video.size == (48, 64)
    for frame in video:
        image = frame.image
        assert image.dtype == torch.uint8 and image.is_contiguous()
        assert (image[:, :47, :63].float() - picture(frame.number, 47, 63).float()).abs().mean() < 2
        assert (image[:, 47].float() - image[:, 46].float()).abs().mean() < 2


def test_browsers_play_what_is_written(tmp_path):
    path = write_video(tmp_path / "out.mp4")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.start_time) == ("h264", "yuv420p", 0)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    content = path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


ENCODE = """
import hashlib, sys
from pathlib import Path
import torch
from pe_spatial.common.video import VideoWriter

rough = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
picture = torch.nn.functional.interpolate(rough, (480, 840), mode="bilinear")[0].mul(255).byte()
with VideoWriter(sys.argv[1], 10) as video:
    for time in range(4):
        video.write(picture[:, time : time + 467, 2 * time : 2 * time + 821])
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
"""


def test_what_others_left_in_memory_changes_no_bit_of_a_file(tmp_path):
    """glibc fills new memory with the byte that is named; elsewhere this shows only that two runs are equal."""
    made = [
        subprocess.run(
            [sys.executable, "-c", ENCODE, str(tmp_path / f"{byte}.mp4")],
            env={**os.environ, "MALLOC_PERTURB_": byte},
            check=True,
            capture_output=True,
        ).stdout
        for byte in ("1", "200")
    ]
    assert made[0] == made[1]


def test_times_that_stand_still_are_kept_apart(tmp_path):
    path = write_video(tmp_path / "out.mp4", [0, 0.5, 0.5, 0.4, 1])
    times = [frame.time for frame in VideoReader(path)]
    assert times == pytest.approx([0, 0.5, 0.5, 0.5, 1], abs=1e-5)
    assert times == sorted(set(times))


def test_a_video_is_read_more_than_once_and_left_early(films):
    with VideoReader(films["film.mp4"]) as video:
        first = next(iter(video))
        assert torch.equal(next(iter(video)).image, first.image)
        assert len(list(video)) == 50


def test_names_are_no_addresses(tmp_path):
    path = write_video(tmp_path / "http:at 10:30.mp4")
    assert len(list(VideoReader(path))) == 5


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_videos_of_phones_are_turned(tmp_path, films, rotation, turns):
    path = encode(tmp_path / "turned.mp4", "libx264", 5, rotation)
    upright = [frame.image for frame in VideoReader(films["film.mp4"])][:5]
    video = VideoReader(path)
    assert video.size == ((48, 64) if turns == 2 else (64, 48))
    for frame, plain in zip(video, upright, strict=True):
        assert (frame.image.float() - torch.rot90(plain, turns, (1, 2)).float()).abs().mean() < 3


def test_the_matrix_of_a_video_may_mirror(tmp_path):
    path = encode(tmp_path / "turned.mp4", "libx264", 2, 90)
    turned = next(iter(VideoReader(path))).image
    content = path.read_bytes()
    numbers = [0, -1, 0, 1, 0]
    matrix = b"".join((number << 16).to_bytes(4, "big", signed=True) for number in numbers)
    assert content.count(matrix) == 1
    mirrored = b"".join((abs(number) << 16).to_bytes(4, "big") for number in numbers)
    path.write_bytes(content.replace(matrix, mirrored))
    assert torch.equal(next(iter(VideoReader(path))).image, turned.flip(1))


# --- what is missing --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name, _ in FORMATS])
def test_whole_files_are_counted_exactly(films, name):
    video = VideoReader(films[name])
    assert video.count in (50, None)
    assert count_frames(films[name]) == len(list(video)) == 50
    assert [frame.time for frame in video] == pytest.approx([number / 25 for number in range(50)], abs=1e-3)


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("name", [name for name, _ in FORMATS])
def test_a_file_that_is_cut_short_is_an_error_after_the_good_frames(tmp_path, films, name, share):
    whole_file = (
        copy_packets(films[name], tmp_path / "whole.mp4", options=FAST) if name.endswith("mp4") else films[name]
    )
    content = whole_file.read_bytes()
    start = content.index(DATA[whole_file.suffix])
    end = content.rindex(b"idx1") if b"idx1" in content else len(content)
    path = tmp_path / name
    path.write_bytes(content[: start + int((end - start) * share)])
    whole = [frame.image for frame in VideoReader(films[name])]
    video, good = VideoReader(path), []
    with pytest.raises(UnreadableFrame, match=r"frame \d+.*damaged or cut short") as caught:
        for frame in video:
            good.append(frame)  # noqa: PERF402 - they are kept when the error comes
    assert str(path) in str(caught.value)
    assert 1 <= len(good) < 50
    assert caught.value.number == len(good) and caught.value.time == pytest.approx(len(good) / 25, abs=0.05)
    assert caught.value.lost == 50 - len(good)
    for frame in good:
        assert torch.equal(frame.image, whole[frame.number])


def test_a_damaged_frame_stands_in_its_place(tmp_path, films):
    content = bytearray(films["motion.avi"].read_bytes())
    starts = [found.start() for found in re.finditer(b"00dc", content)][1:]  # the first one names the stream
    content[starts[3] + 8 : starts[4]] = bytes(starts[4] - starts[3] - 8)
    path = tmp_path / "damaged.avi"
    path.write_bytes(content)
    items = list(VideoReader(path).read())
    assert [type(item) for item in items] == [UnreadableFrame if n == 3 else VideoFrame for n in range(50)]
    assert [item.number for item in items] == list(range(50))
    assert (items[3].time, items[3].lost) == (pytest.approx(0.12), 1)


def test_what_is_no_video_is_refused_when_it_is_opened(tmp_path, films):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.pts = 8000, 0
        frame.planes[0].update(bytes(4096))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    films_head = films["film.mkv"].read_bytes()[:800]
    (tmp_path / "head.mkv").write_bytes(films_head)
    for name in ("sound.mp4", "text.mp4", "empty.mp4", "head.mkv", "none.mp4"):
        with pytest.raises(UnreadableFile, match=name.replace(".", r"\.")):
            VideoReader(tmp_path / name)
    with pytest.raises(UnreadableFile, match="no such file"):
        count_frames(tmp_path / "none.mp4")
    with pytest.raises(UnreadableFile, match="no video stream"):
        count_frames(tmp_path / "sound.mp4")
    assert is_video(films["film.mkv"]) and not is_video(tmp_path / "text.mp4")
    with pytest.raises(UnreadableFile, match="camera 77 cannot be opened"):
        Camera(77)


def test_packets_that_show_nothing_are_not_counted(tmp_path):
    """VP8 sends pictures that only serve others; here every fifth one is sent once more, to be hidden."""
    path = encode(tmp_path / "plain.webm", "libvpx", 20)
    hiding = tmp_path / "hiding.webm"
    with av.open(str(path)) as source, av.open(str(hiding), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.dts is None:
                continue
            copies = [packet]
            if number % 5 == 4:
                content = bytes(packet)
                hidden = av.Packet(bytes([content[0] & ~0x10]) + content[1:])
                hidden.pts = hidden.dts = packet.pts + 1
                hidden.time_base = packet.time_base
                copies.append(hidden)
            for copy in copies:
                copy.stream = stream
                target.mux(copy)
    assert count_frames(hiding) == count_frames(path) == 20
    assert [frame.number for frame in VideoReader(hiding)] == list(range(20))


def test_what_an_edit_cuts_off_is_not_counted(tmp_path):
    path = encode(tmp_path / "b.mp4", "libx264", 50, options={"bf": "3"})
    cut = copy_packets(path, tmp_path / "edited.mp4", shift=0.4)
    frames = list(VideoReader(cut))
    assert len(frames) == 40
    assert len(frames) == count_frames(cut) == VideoReader(cut).count
    assert [frame.time for frame in frames] == sorted(frame.time for frame in frames)


# --- whole or absent --------------------------------------------------------------------------------------------------
def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(tmp_path / "out.mp4") as writer:
        writer.write(picture(0))
        raise RuntimeError("stop")
    with pytest.raises(UserError, match=r"\(24, 64\).*\(48, 64\).*one size"), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(picture(0))
        writer.write(picture(0, height=24))
    with VideoWriter(tmp_path / "empty.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_finished_file_stays_until_the_new_one_is_whole(tmp_path):
    path = write_video(tmp_path / "out.mp4")
    before = path.read_bytes()
    writer = VideoWriter(path)
    writer.write(picture(3))
    assert path.read_bytes() == before
    writer.close()
    assert len(list(VideoReader(path))) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("limit", [100, 60_000])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, small_files, limit):
    generator = torch.Generator().manual_seed(0)
    full = pytest.raises(FullDiskError, match=r"out\.mp4")
    with small_files(limit), full, VideoWriter(tmp_path / "out.mp4") as writer:
        for _ in range(12):
            writer.write(torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8, generator=generator))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, _ in FORMATS])
def test_the_rate_is_that_of_the_times(films, name):
    count, rate = measure_frames(films[name])
    assert count == 50
    assert rate == pytest.approx(25, rel=0.021)  # where the last frame has no duration


def test_the_rate_of_uneven_times_is_the_average(tmp_path):
    count, rate = measure_frames(write_video(tmp_path / "out.mp4"))
    with VideoWriter(tmp_path / "held.mp4") as writer:
        writer.write(picture(0), 0.0)
        writer.write(picture(1), 1.0, 2.5)
    assert (count, rate) == (5, pytest.approx(5 / 1.04))
    assert measure_frames(tmp_path / "held.mp4") == (2, pytest.approx(2 / 3.5))
    assert measure_frames(write_video(tmp_path / "one.mp4", [0.0])) == (1, None)


@pytest.mark.parametrize(
    ("frames", "duration", "lost"), [(5, 1.25, 0), (5, 1.0, 0), (5, 2.25, 4), (1, 0.25, 0), (1, 9.0, 0)]
)
@pytest.mark.parametrize("says", [True, False])
def test_what_is_missing_of_a_matroska_whose_packets_may_say_no_duration(frames, duration, lost, says):
    """FFmpeg before version 8.1 reads packets of a Matroska without a duration where the file gives no rate."""
    stream = SimpleNamespace(index=0, frames=0, codec_context=SimpleNamespace(name="h264"))

    def packet(number):
        span = 250 if says else 0
        place = {"pts": 250 * number, "dts": 250 * number, "duration": span, "time_base": Fraction(1, 1000)}
        return SimpleNamespace(**place, size=31, stream_index=0, stream=stream, is_discard=False)

    form = SimpleNamespace(name="matroska,webm")
    container = SimpleNamespace(
        format=form, duration=duration * 1e6, size=10**6, demux=lambda: (packet(number) for number in range(frames))
    )
    packets = Packets(container, stream)
    assert len([each for each in packets if each is not None]) == frames
    if frames > 1:
        assert packets.missing(4.0) == lost
    else:  # nothing says how long the only frame is shown
        assert packets.missing(4.0) == (0 if not says else round((duration - 0.25) * 4))
