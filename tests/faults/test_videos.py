"""Videos that users have: all containers, trimmed, cut, damaged, of uneven rates; and names of files that meet."""

import json
import shutil
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from small_checkpoints import LISTS, SAVE

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import UnreadableFile
from pe_spatial.common.sources import resolve_sources
from pe_spatial.common.video import UnreadableFrame, VideoReader, count_frames

GIVEN = Path(__file__).parent / "data"
TRACKER = "tracking/baseline_repeat_davis2017"
# suffix: (codec, format that the suffix does not say)
CONTAINERS = {
    **dict.fromkeys(("mp4", "mov", "mkv", "flv", "nut"), ("libx264", None)),
    **dict.fromkeys(("m4v", "qt", "M4V"), ("libx264", "mp4")),
    **dict.fromkeys(("ts", "mts", "m2ts", "m2t"), ("libx264", "mpegts")),
    **dict.fromkeys(("3gp", "3g2"), ("mpeg4", "3gp")),
    **dict.fromkeys(("mpg", "mpeg", "vob"), ("mpeg2video", "mpeg")),
    **dict.fromkeys(("wmv", "asf"), ("wmv2", "asf")),
    **dict.fromkeys(("ogv", "ogg"), ("libvpx", "ogg")),
    "avi": ("mpeg4", None),
    "divx": ("mpeg4", "avi"),
    "webm": ("libvpx-vp9", None),
    "gif": ("gif", None),
    "f4v": ("libx264", "f4v"),
    "mxf": ("mpeg2video", None),
    "rm": ("rv10", None),
    "h264": ("libx264", None),
    "mjpg": ("mjpeg", "mjpeg"),
    "ivf": ("libvpx", None),
}
FRAMES = 12


def encode(path, codec="libx264", form=None, times=None, noise=False, options=None):
    """A video of 25 frames per second, or of frames at these milliseconds; the frame n is of gray level 10 + 18 n."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = 48, 64
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES if times is None else len(times)):
            pixels = np.full((48, 64, 3), 10 + 18 * number, np.uint8)
            if noise:
                pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy(source, target, shift=0.0, end=None, form=None, options=None):
    """The same packets later by some seconds and up to an end, as programs trim that do not encode again."""
    with av.open(str(source)) as old, av.open(str(target), "w", format=form, options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and (end is None or packet.pts * packet.time_base < end):
                ticks = round(shift / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
                new.mux(packet)
    return target


def levels(frames):
    return [round((float(frame.image.float().mean()) - 10) / 18) for frame in frames]


def bad(path):
    return [item for item in VideoReader(path).read() if isinstance(item, UnreadableFrame)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {task: SAVE[task](folder / f"{task}.pth") for task in SAVE}


def predict(checkpoint, source, out):
    return run_command("predict", ["--checkpoint", str(checkpoint), "--input", str(source), "--output", str(out)])


def track(source, out, *more):
    prompt = [] if "--mask" in more else ["--box", "4,4,30,30"]
    arguments = ["--config", TRACKER, "--input", str(source), "--output", str(out), *prompt, "--no-pictures", *more]
    return run_command("track", arguments)


# --- given ------------------------------------------------------------------------------------------------------------
def test_a_damaged_video_is_named_with_the_frames_that_it_has(checkpoints, tmp_path, capsys):
    path = GIVEN / "videos/corrupt.mp4"
    for _ in range(2):  # it is tried again, and fails again
        assert predict(checkpoints["depth"], path, tmp_path / "out") == 1
        assert "corrupt.mp4: frame 10 of 50" in (message := capsys.readouterr().err)
        assert "36 of 50 frames can be used" in message
    assert "36 of 50" in json.loads((tmp_path / "out/failed.json").read_text())["files"][0]["problem"]
    assert track(path, tmp_path / "tracked") == 2
    assert "36 of 50 frames can be used; or skip such frames" in capsys.readouterr().err
    assert track(path, tmp_path / "skipped", "--skip-unreadable") == 0
    assert "36 of 50 frames are tracked, left out: 00010" in capsys.readouterr().err
    assert len(list((tmp_path / "skipped/corrupt").iterdir())) == 36


def test_a_video_that_was_trimmed_without_encoding_is_complete(checkpoints, tmp_path, capsys):
    path = GIVEN / "videos/trimmed_without_reencoding.mp4"
    assert predict(checkpoints["depth"], path, tmp_path / "out") == 0
    assert predict(checkpoints["depth"], path, tmp_path / "out") == 0
    assert "1 of 1 files were done by an earlier run" in capsys.readouterr().out
    assert count_frames(tmp_path / "out/pictures" / path.name) == 8
    assert track(path, tmp_path / "tracked") == 0
    assert len(list((tmp_path / "tracked" / path.stem).glob("*.png"))) == 8


@pytest.mark.parametrize("task", SAVE)
@pytest.mark.parametrize(("folder", "count"), [("collide", 7), ("same_stem", 2)])
def test_names_that_meet_give_a_result_each(checkpoints, tmp_path, capsys, task, folder, count):
    for _ in range(2):
        assert predict(checkpoints[task], GIVEN / "pictures" / folder, tmp_path / "out") == 0
        pictures = [path for path in (tmp_path / "out/pictures").rglob("*") if path.is_file()]
        assert len(pictures) == count
    assert f"{count} of {count} files were done by an earlier run" in capsys.readouterr().out
    assert (tmp_path / "out" / LISTS[task]).is_file()


def test_other_names_that_meet_give_a_result_each(checkpoints, tmp_path):
    source = tmp_path / "in"
    (source / "b").mkdir(parents=True)
    for name in ("a.webp", "A.png", "a.bmp", "a_000000.png", "b/a.png"):
        shutil.copy(GIVEN / "pictures/same_stem" / f"photo.{'webp' if name.endswith('webp') else 'png'}", source / name)
    for name in ("a.mkv", "a.ts", "b.mp4"):
        encode(source / name, form="mpegts" if name.endswith("ts") else None)
    assert predict(checkpoints["depth"], source, tmp_path / "out") == 0
    assert len([path for path in (tmp_path / "out/pictures").rglob("*") if path.is_file()]) == 8


# --- containers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", CONTAINERS)
def test_every_container_is_found_in_a_folder_and_read_whole(tmp_path, suffix):
    codec, form = CONTAINERS[suffix]
    path = encode(tmp_path / f"film.{suffix}", codec, form)
    assert [(entry.path, entry.kind) for entry in resolve_sources(tmp_path, ["image", "video"])] == [(path, "video")]
    frames = list(VideoReader(path))
    assert len(frames) == FRAMES == count_frames(path)
    assert levels(frames) == list(range(FRAMES))
    steps = np.diff([frame.time for frame in frames])
    assert steps == pytest.approx(np.full(FRAMES - 1, 0.04), abs=0.011)


def test_both_tools_take_the_same_files(checkpoints, tmp_path):
    for suffix in ("m4v", "ts", "ogv", "gif"):
        encode(tmp_path / f"in_{suffix}.{suffix}", *CONTAINERS[suffix])
        assert track(tmp_path / f"in_{suffix}.{suffix}", tmp_path / suffix) == 0
        assert len(list((tmp_path / suffix / f"in_{suffix}").glob("*.png"))) == FRAMES
    assert predict(checkpoints["depth"], f"{tmp_path}/in_*", tmp_path / "out") == 0
    assert len(list((tmp_path / "out/pictures").glob("*.mp4"))) == 4


def test_source_code_is_no_video(tmp_path):
    (tmp_path / "index.ts").write_text("export const answer: number = 42;\n" * 100)
    encode(tmp_path / "clip.ts", form="mpegts")
    sources = resolve_sources(tmp_path)
    assert [entry.name for entry in sources] == ["clip.ts"] and "1 .ts" in sources.warning


# --- whole ------------------------------------------------------------------------------------------------------------
def test_what_is_trimmed_or_shifted_without_encoding_is_whole(tmp_path):
    film = encode(tmp_path / "film.mp4", options={"bf": "2"})
    copies = {
        "start.mp4": {"shift": -0.16},  # an edit list hides what comes before
        "start.mov": {"shift": -0.16},
        "start.mkv": {"shift": -0.16},
        "start.ts": {"shift": -0.16, "form": "mpegts"},
        "end.mp4": {"end": 0.24},
        "end.mkv": {"end": 0.24},
        "late.mp4": {"shift": 3},
        "late.ts": {"shift": 30_000, "form": "mpegts"},
        "plain.mp4": {"options": {"use_editlist": "0"}},
        "parts.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    }
    for name, change in copies.items():
        path = copy(film, tmp_path / name, **change)
        frames = list(VideoReader(path))  # raises where one is missing
        assert len(frames) == count_frames(path) and levels(frames) == sorted(levels(frames)), name
        times = [frame.time for frame in frames]
        assert np.diff(times) == pytest.approx(np.full(len(times) - 1, 0.04), abs=1e-3), name
        assert len(frames) <= FRAMES and (len(frames) == FRAMES or name.startswith(("start", "end"))), name


def test_b_frames_of_avi_are_in_order(tmp_path):
    frames = list(VideoReader(encode(tmp_path / "film.avi", options={"bf": "3"})))
    assert levels(frames) == list(range(FRAMES))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(FRAMES) / 25)


def test_uneven_times_are_kept(checkpoints, tmp_path):
    times = [0, 33, 66, 200, 201, 900, 1000, 3000]
    for suffix, codec in {
        "mp4": "libx264",
        "mkv": "libx264",
        "flv": "libx264",
        "webm": "libvpx",
        "wmv": "wmv2",
    }.items():
        path = encode(tmp_path / f"{suffix}.{suffix}", codec, times=times)
        assert [frame.time for frame in VideoReader(path)] == pytest.approx(np.array(times) / 1000, abs=2e-3)
        assert predict(checkpoints["depth"], path, tmp_path / "out" / suffix) == 0
        drawn = VideoReader(tmp_path / "out" / suffix / "pictures" / f"{suffix}.mp4")
        assert [frame.time for frame in drawn] == pytest.approx(np.array(times) / 1000, abs=2e-3)


# --- cut --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "flv", "rm", "mxf", "gif", "ivf", "wmv", "mpg"])
def test_a_file_that_is_cut_is_named_with_the_frames_that_it_has(tmp_path, suffix):
    path = encode(tmp_path / f"whole.{suffix}", *CONTAINERS[suffix], noise=True)
    if suffix == "mp4":
        path = copy(path, tmp_path / "first.mp4", options={"movflags": "faststart"})
    content = path.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: int(len(content) * 0.8)])
    assert not bad(path) and bad(cut)
    with pytest.raises(UnreadableFrame, match=r"cut\.\w+: frame \d+.*; \d+ of \d+ frames can be used"):
        list(VideoReader(cut).whole())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "webm", "avi", "mpg", "wmv", "3gp", "flv"])
@pytest.mark.parametrize("kind", ["zeros", "noise", "hole"])
def test_damage_in_the_middle_is_never_silent(tmp_path, suffix, kind):
    codec, form = CONTAINERS[suffix]
    content = encode(tmp_path / f"whole.{suffix}", codec, form, noise=True).read_bytes()
    start, end = len(content) // 2, len(content) // 2 + 3000
    noise = np.random.default_rng(1).integers(0, 256, end - start, np.uint8).tobytes()
    filled = {"zeros": bytes(end - start), "noise": noise, "hole": b""}[kind]
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(content[:start] + filled + content[end:])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            lost = bad(path)
        except UnreadableFile:
            return
    said = [str(warning.message) for warning in caught]
    assert lost or any("damaged" in text or "announced" in text for text in said)


def test_whole_videos_give_no_warning(tmp_path, recwarn):
    for suffix, (codec, form) in CONTAINERS.items():
        list(VideoReader(encode(tmp_path / f"film.{suffix}", codec, form)))
    assert not [warning for warning in recwarn if "film." in str(warning.message)]


def test_where_nothing_is_left_the_announced_frames_are_named(tmp_path):
    path = encode(tmp_path / "film.avi", "mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 12])
    with pytest.raises(OSError, match=rf"film\.avi has 0 of {FRAMES} frames that can be decoded"):
        VideoReader(path)
