"""A folder of what strangers leave in it: nothing hangs, nothing ends the run, all is named, and the rest is done."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import bad_files as bad
import pytest
from small_segmenters import save_segmenter
from watched import Watched

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import printable
from pe_spatial.common.pictures import image_size

TOO_LARGE = r"pixels \(H x W\) are .* more than the limit of .*--max-pixels"
NO_VIDEO = "cannot be opened"


@dataclass(frozen=True)
class Case:
    """What is put into the folder under a name, and what the command says of it."""

    name: str
    make: object
    says: str


def raw(content):
    return lambda path: path.write_bytes(content)


def cut(maker, share=0.5):
    """The first part of a file."""

    def make(path):
        maker(path)
        os.truncate(path, int(share * path.stat().st_size))

    return make


BAD = [
    # pictures that say they are huge
    Case("bomb.png", bad.png_bomb, "30000 x 30000 " + TOO_LARGE),
    Case("header.png", bad.png_header, TOO_LARGE),
    Case("wide.png", lambda path: bad.png_header(path, 2**31 - 1, 1), TOO_LARGE),
    Case("bomb.jpg", bad.jpeg_bomb, "65500 x 65500 " + TOO_LARGE),
    Case("bomb.gif", bad.gif_bomb, TOO_LARGE),
    Case("bomb.bmp", bad.bmp_bomb, TOO_LARGE),
    Case("bomb.tga", bad.tga_bomb, TOO_LARGE),
    Case("bomb.ppm", bad.ppm_bomb, TOO_LARGE),
    Case("bomb.tif", bad.tiff_bomb, TOO_LARGE),
    Case("bomb.webp", bad.webp_bomb, TOO_LARGE),
    Case("bomb.jp2", bad.jp2_bomb, TOO_LARGE),
    Case("bomb.avif", bad.avif_bomb, "cannot be read"),
    Case("sparse.jpg", bad.sparse, "do not fit into the free memory"),
    Case("sparse.webp", bad.sparse_webp, "do not fit into the free memory"),
    Case(
        "program.jpg",
        raw(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"),
        "EPS is not a supported picture format",
    ),
    # files that are none
    Case("pipe.jpg", os.mkfifo, "it is a pipe"),
    Case("pipe.png", os.mkfifo, "it is a pipe"),
    Case("pipe.gif", os.mkfifo, "it is a pipe"),
    Case("pipe.mp4", os.mkfifo, "it is a pipe"),
    Case("socket.jpg", bad.bound_socket, "it is a socket"),
    Case("socket.mkv", bad.bound_socket, "it is a socket"),
    Case("zero.png", bad.linked("/dev/zero"), "it is a device"),
    Case("random.jpg", bad.linked("/dev/random"), "it is a device"),
    Case("zero.mp4", bad.linked("/dev/zero"), "it is a device"),
    Case("memory.jpg", bad.linked("/proc/self/mem"), "Input/output error|empty or no picture"),
    Case("itself.jpg", bad.linked("itself.jpg"), "Too many levels of symbolic links"),
    Case("itself.mp4", bad.linked("itself.mp4"), "Too many levels of symbolic links"),
    Case("nowhere.jpg", bad.linked("nowhere"), "no such file"),
    Case("nowhere.avi", bad.linked("nowhere"), "no such file"),
    # files without pictures
    Case("empty.jpg", raw(b""), "it is empty"),
    Case("empty.png", raw(b""), "it is empty"),
    Case("empty.mp4", raw(b""), NO_VIDEO),
    Case("junk.jpg", raw(b"\0" * 1000), "no picture"),
    Case("page.jpg", raw(b"<html>404</html>"), "no picture"),
    Case("junk.mp4", raw(b"\xff" * 1000), NO_VIDEO),
    Case("cut.png", cut(lambda path: bad.good_picture(path, (64, 64))), "cannot be read"),
    Case("cut.jpg", cut(lambda path: bad.good_picture(path, (64, 64))), "cannot be read"),
    Case("head.png", raw(b"\x89PNG\r\n\x1a\n"), "cannot be read"),
    # names
    Case("two\nlines.jpg", raw(b""), r"two\\nlines\.jpg"),
    Case("\x1b[31mred\x07.jpg", raw(b""), r"\\x1b\[31mred\\x07\.jpg"),
    Case("\u202egpj.exe.jpg", raw(b""), r"\\u202egpj"),
    Case(os.fsdecode(b"\xff\xfe.jpg"), raw(b""), r"\\udcff\\udcfe\.jpg"),
    Case(os.fsdecode(b"\xff\xfe.mp4"), raw(b""), r"\\udcff\\udcfe\.mp4"),
    Case("n" * 251 + ".jpg", raw(b""), "nnn"),
    Case("-rf %s %d 'a' \"b\" :\\.png", raw(b""), "empty"),
    Case(" 👩‍🚀 .png", raw(b""), "👩‍🚀"),
    # videos
    Case("list.mp4", raw(b"ffconcat version 1.0\nfile list.mp4\n"), NO_VIDEO),
    Case("playlist.mp4", raw(b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfilm.mkv\n#EXT-X-ENDLIST\n"), NO_VIDEO),
    Case("endless.avi", bad.avi_of_frames(2**32 - 1), "frame 6 .*cannot be decoded"),
    Case("endless.mkv", bad.mkv_of_seconds(1e15), "frame 6 .*cannot be decoded"),
    Case("absent.mp4", bad.mp4_of_frames(2**31 - 1), "no frame that can be decoded|cannot be decoded"),
    Case("large.avi", bad.avi_of_size(65_000, 65_000), TOO_LARGE + "|no frame that can be decoded|cannot be decoded"),
    Case("resized.mpg", bad.video_of_two_sizes, "encode the video again with one size"),
    Case("sound.mp4", bad.sound, "no video stream"),
    Case("cut.mp4", cut(bad.video, 0.6), NO_VIDEO),
    Case("cut.mkv", cut(bad.video, 0.6), "can be decoded|cannot be decoded"),
]
# odd, and yet sound: they are read
SOUND = {
    "good.png": bad.good_picture,
    "dot.png": lambda path: bad.good_picture(path, (1, 1)),
    "row.png": lambda path: bad.good_picture(path, (1, 20_000)),
    "column.png": lambda path: bad.good_picture(path, (20_000, 1)),
    "pair.png": lambda path: bad.good_picture(path, (2, 1)),
    "thread.png": lambda path: bad.good_picture(path, (5_000, 1)),
    "folder.jpg/inside.png": bad.good_picture,
    "twice.png": bad.linked("good.png"),
    "GOOD.png": bad.good_picture,
    "l" * 251 + ".png": bad.good_picture,
    os.fsdecode(b"\xff.png"): bad.good_picture,
    os.fsdecode(b"\xff.mkv"): bad.video,
    "v" * 251 + ".mkv": bad.video,
    "few.avi": bad.avi_of_frames(2),
    "%03d.mkv": bad.video,
    " -':é\t.png": bad.good_picture,
}


def predict(*arguments):
    return run_command("predict", [*map(str, arguments), "--device", "cpu"])


def fill(folder):
    folder.mkdir()
    for name, make in [*SOUND.items(), *((case.name, case.make) for case in BAD)]:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        make(path)
    (folder / "round").symlink_to(".", target_is_directory=True)
    return folder


def results(folder):
    """Names of the files of the results, without what the folder remembers of its runs."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".pe_spatial"}


@pytest.fixture(scope="module")
def watched():
    with Watched(seconds=120) as run:
        yield run


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("strange") / "in")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory, watched, strange, checkpoint):
    """(outcome, folder of the results) of one run over everything."""
    output = tmp_path_factory.mktemp("predicted") / "out"
    return watched(predict, "--checkpoint", checkpoint, "--input", strange, "--output", output), output


def problems(output):
    """Why files failed, by their names."""
    content = json.loads((output / "failed.json").read_text())
    return {entry["file_name"]: entry["problem"] for entry in content["files"]}


def names_of(cases):
    return [ascii(case.name)[1:-1][:30] for case in cases]


@pytest.mark.parametrize("case", BAD, ids=names_of(BAD))
def test_a_bad_file_is_named_with_its_fault_and_leaves_nothing(predicted, case):
    _, output = predicted
    problem = problems(output)[case.name]
    assert re.search(case.says, problem)
    assert problem.isprintable() or "\u200d" in problem
    stem = case.name.rpartition(".")[0]
    assert printable(stem) in problem
    assert not [name for name in results(output) if {stem, case.name} & {*Path(name).parts, Path(name).stem}]


@pytest.mark.parametrize("name", SOUND, ids=lambda name: ascii(name)[1:-1][:30])
def test_an_odd_file_is_read(predicted, name):
    _, output = predicted
    assert name not in problems(output)
    listed = {entry["file_name"] for entry in json.loads((output / "segmentation.json").read_text())["files"]}
    assert name in listed


def test_the_run_ends_with_status_1_and_all_that_failed_is_counted(predicted):
    outcome, output = predicted
    assert outcome.status == 1
    assert problems(output).keys() == {case.name for case in BAD}
    lines = outcome.err.splitlines()
    assert sum(line.startswith("not read or predicted: ") for line in lines) == 20
    assert f"and {len(BAD) - 20} more; all are in {output / 'failed.json'}" in lines
    assert not set(outcome.err) & set("\x1b\x07\u202e")
    assert not [name for name in results(output) if name.endswith(".writing")]


def test_pictures_of_thin_images_stay_small(predicted):
    _, output = predicted
    for name in ("row", "column", "thread", "dot", "pair"):
        height, width = image_size(output / f"pictures/{name}.png")
        assert height * width < 8_000_000 and min(height, width) >= 1


def test_a_second_run_does_only_what_failed(predicted, watched, strange, checkpoint):
    _, output = predicted
    before = {name: (output / name).stat().st_mtime_ns for name in results(output) if name.endswith(".png")}
    again = watched(predict, "--checkpoint", checkpoint, "--input", strange, "--output", output)
    assert again.status == 1
    assert f"{len(SOUND)} of {len(SOUND) + len(BAD)} files were done by an earlier run" in again.out
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
