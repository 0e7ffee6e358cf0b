"""Pictures of every kind in one folder: each is predicted or says what it is, and what is no picture is counted."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_segmenters import save_segmenter

import pe_spatial.common.picture_files as opening
from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import VideoWriter

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
SOUND = ("jpg", "jpeg", "jpe", "jfif", "png", "bmp", "webp", "tif", "tiff", "gif", "avif", "jp2", "mpo", "ppm", "pnm")
REFUSED = {
    "pages.tif": "it contains 2 pictures",
    "moves.png": "it contains 2 pictures",
    "moves.webp": "it contains 2 pictures",
    "bands.tif": "a TIFF of 4 bands, 8 bits each",
    "real.tif": "a TIFF of one band, 32 bits, floating-point, whose values reach from 0 to 1; set value_range",
    "phone.heic": "pillow-heif",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("model") / "model.pth")


@pytest.fixture
def folder(tmp_path):
    """Sound pictures that share their stems, some that are refused, and files that are no pictures."""
    root = tmp_path / "in"
    root.mkdir()
    for suffix in SOUND:
        Image.fromarray(NOISE).save(root / f"photo.{suffix}")
    twice = {"save_all": True, "append_images": [Image.fromarray(NOISE[::-1])]}
    for name in ("pages.tif", "moves.png", "moves.webp"):
        Image.fromarray(NOISE).save(root / name, **twice)
    four = np.concatenate([NOISE, NOISE[..., :1]], -1).transpose(2, 0, 1)
    tifffile.imwrite(root / "bands.tif", four, photometric="minisblack", planarconfig="separate")
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(root / "real.tif")
    (root / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    for name in ("notes.txt", "a.xmp", "b.xmp"):
        (root / name).write_text("")
    return root


def predict(capsys, *arguments):
    status = run_command("predict", [*map(str, arguments), "--device", "cpu", "--no-pictures"])
    return status, capsys.readouterr()


def listed(output):
    return {entry["file_name"] for entry in json.loads((output / "segmentation.json").read_text())["files"]}


def test_every_picture_is_predicted_or_says_what_it_is(folder, checkpoint, capsys):
    output = folder.parent / "out"
    status, said = predict(capsys, "--checkpoint", checkpoint, "--input", folder, "--output", output)
    assert status == 1
    assert listed(output) == {f"photo.{suffix}" for suffix in SOUND}
    problems = {e["file_name"]: e["problem"] for e in json.loads((output / "failed.json").read_text())["files"]}
    assert problems.keys() == REFUSED.keys()
    assert all(text in problems[name] for name, text in REFUSED.items())
    assert said.err.splitlines()[-1].endswith("left out because of their names: 3 (2 .xmp, 1 .txt)")


def test_a_stated_rule_reads_what_was_refused(folder, checkpoint, capsys):
    rule = ("--value-range", 0, 1, "--bands", 1)
    for number, name in enumerate(("bands.tif", "real.tif")):
        output = folder.parent / f"out{number}"
        status, _ = predict(capsys, "--checkpoint", checkpoint, "--input", folder / name, "--output", output, *rule)
        assert status == 0 and listed(output) == {name}
    status, said = predict(
        capsys, "--checkpoint", checkpoint, "--input", folder / name, "--output", folder.parent / "x", "--bands", 1, 2
    )
    assert status == 2 and "bands [1, 2] must be the numbers of three bands" in said.err


def test_12_bits_are_not_black_and_the_guess_is_said(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(opening, "_said", set())
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 16).save(tmp_path / "a.png")
    output = tmp_path / "out"
    status, said = predict(capsys, "--checkpoint", checkpoint, "--input", tmp_path / "a.png", "--output", output)
    assert status == 0 and "uses 12 bits, so its values are taken as 0…4095" in said.err


def test_files_of_one_stem_do_not_overwrite_each_other(tmp_path, checkpoint, capsys):
    root = tmp_path / "in"
    root.mkdir()
    for suffix in ("jpg", "jpeg", "png", "tif"):
        Image.fromarray(NOISE).save(root / f"a.{suffix}")
    for suffix in ("avi", "mov", "mp4"):
        import torch

        with VideoWriter(root / f"clip.{suffix}", rate=5) as video:
            for _ in range(2):
                video.write(torch.from_numpy(NOISE.transpose(2, 0, 1).copy()))
    arguments = ("--checkpoint", checkpoint, "--input", root, "--output", tmp_path / "out")
    status, _ = predict(capsys, *arguments)
    assert status == 0
    names = {name.split("@")[0].rpartition(":")[0] or name for name in listed(tmp_path / "out")}
    assert {f"a.{suffix}" for suffix in ("jpg", "jpeg", "png", "tif")} <= names
    maps = [path for path in (tmp_path / "out/labels").rglob("*") if path.is_file()]
    assert len(maps) == 4 + 3 * 2
    status, said = predict(capsys, *arguments)
    assert status == 0 and "7 of 7 files were done by an earlier run" in said.out
