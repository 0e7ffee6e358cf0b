"""`pe-spatial classify`: folders, videos, lists, evaluation, resuming, and mistakes."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from small_core import TINY

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import Prompts, open_core, save_core
from pe_spatial.commands.shell import run_command
from pe_spatial.common.video import VideoWriter
from pe_spatial.zero_shot.classifier import ZeroShotClassifier

CLASSES = ("cat", "dog", "set {of} things")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("ftfy")
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("encoder")
    save_core(PECore(TINY), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folders of pictures, and a video."""
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("cat/1", "cat/2", "dog/1", "dog/2", "dog/3")):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(256, size=(20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    with VideoWriter(folder / "dog/film.mp4") as video:
        for number in range(9):
            video.write(torch.full((3, 32, 32), 20 * number, dtype=torch.uint8))
    return folder


def run(encoder, source, output, *options):
    arguments = ["--encoder", encoder, "--input", source, "--output", output, "--device", "cpu", *options]
    return run_command("classify", [str(argument) for argument in arguments])


def content(output):
    return json.loads((output / "classification.json").read_text())


def test_folders_and_videos_are_named_in_all_lists(encoder, data, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(encoder, data, output, "--classes", ",".join(CLASSES), "--top-k", 2, "--batch-size", 4) == 0
    files = content(output)["files"]
    assert [entry["file_name"] for entry in files] == [
        *(f"{name}.png" for name in ("cat/1", "cat/2", "dog/1", "dog/2", "dog/3")),
        "dog/film.mp4",
    ]
    assert [entry.get("frames") for entry in files] == [None] * 5 + [8]

    expected = ZeroShotClassifier(open_core(encoder, device="cpu"), Prompts(CLASSES))(data / "cat/1.png")
    order = expected.argsort(descending=True)[:2].tolist()
    assert [row["name"] for row in files[0]["classes"]] == [CLASSES[row] for row in order]
    assert files[0]["classes"][0]["score"] == pytest.approx(expected[order[0]].item(), abs=1e-5)
    with open(output / "classification.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file_name", "class_1", "score_1", "class_2", "score_2"]
    assert [row[:2] for row in rows[1:]] == [[entry["file_name"], entry["classes"][0]["name"]] for entry in files]
    assert (output / "pictures/cat/1.png").is_file()
    assert (output / "pictures/dog/film.png").is_file()
    assert "wrote" in capsys.readouterr().out


def test_templates_of_a_file_and_others_weights(encoder, data, tmp_path):
    (tmp_path / "templates.txt").write_text("a photo of {c}.\n{c} at night\n")
    weights = ("--weights", encoder / "pe_core.safetensors", "--top-k", 1)
    options = ("--classes", "cat,dog", "--no-pictures", "--templates", tmp_path / "templates.txt")
    assert run(encoder, data, tmp_path / "out", *options, *weights) == 0

    prompts = Prompts(("cat", "dog"), ("a photo of {c}.", "{c} at night"))
    expected = ZeroShotClassifier(open_core(encoder, device="cpu"), prompts)(data / "cat/1.png")
    (first,) = content(tmp_path / "out")["files"][0]["classes"]
    assert first["score"] == pytest.approx(expected.max().item(), abs=1e-5)


def test_what_is_finished_is_not_done_again(encoder, data, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    options = ("--classes", "cat,dog", "--no-pictures")
    assert run(encoder, data, output, *options, "--limit", 2) == 0
    seen = []
    load = ZeroShotClassifier.load
    monkeypatch.setattr(ZeroShotClassifier, "load", lambda self, *args: seen.append(1) or load(self, *args))
    assert run(encoder, data, output, *options) == 0
    assert len(seen) == 4
    assert "2 of 6 files were done by an earlier run" in capsys.readouterr().out
    whole = tmp_path / "whole"
    assert run(encoder, data, whole, *options) == 0
    assert content(whole)["files"] == content(output)["files"]
    assert run(encoder, data, output, "--classes", "cat,cow", "--no-pictures") == 2  # other classes, another run
    assert "contains the results of another run" in capsys.readouterr().err


def test_folders_are_evaluated(encoder, data, tmp_path, capsys):
    (tmp_path / "templates.txt").write_text("a {c}\n")
    assert run(encoder, data, tmp_path / "out", "--evaluate", "--templates", tmp_path / "templates.txt") == 0
    found = content(tmp_path / "out")
    score = found["evaluation"]
    right = [entry["classes"][0]["name"] == entry["truth"] for entry in found["files"]]
    assert score["top1"] == pytest.approx(sum(right) / 6)
    assert score["top5"] == 1  # of two classes
    assert score["mean_per_class"] == pytest.approx((sum(right[:2]) / 2 + sum(right[2:]) / 4) / 2)
    assert f"top-1 {score['top1']:.1%}" in capsys.readouterr().out
    assert not (tmp_path / "out/pictures").exists()


def test_a_list_is_evaluated(encoder, data, tmp_path):
    listed = data / "list.csv"
    listed.write_text("video,class\ndog/film.mp4,dog\ncat/1.png,cat\n")
    assert run(encoder, listed, tmp_path / "out", "--evaluate", "--classes", "cow,dog,cat") == 0
    files = content(tmp_path / "out")["files"]
    assert {entry["file_name"]: entry["truth"] for entry in files} == {"dog/film.mp4": "dog", "cat/1.png": "cat"}
    assert len(files[0]["classes"]) == 3


def test_a_bad_file_fails_alone(encoder, data, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    (source / "bad.png").write_bytes(b"no picture")
    (source / "bad.mp4").write_bytes(b"no video")
    Image.new("RGB", (9, 9)).save(source / "good.png")
    assert run(encoder, source, tmp_path / "out", "--classes", "cat") == 1
    assert [entry["file_name"] for entry in content(tmp_path / "out")["files"]] == ["good.png"]
    assert content(tmp_path / "out")["files"][0]["classes"][0]["score"] == 1
    assert "bad.mp4" in (errors := capsys.readouterr().err) and "bad.png" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --classes"),
        (("--classes", "cat,dog,cat"), r"1 of the classes are given more than once (cat); name each once"),
        (("--classes", " , "), "there are no classes"),
        (("--classes", "absent.txt"), "there is no file absent.txt"),
        (("--classes", "cat", "--templates", "absent"), "there is no file absent"),
        (("--classes", "cat <end_of_text>"), "marks the end of a text for the model"),
        (("--classes", "cat", "--evaluate"), "1 of the classes of the data are not in --classes (dog)"),
        (("--classes", "cat", "--weights", "absent.pth"), "no weights at 'absent.pth'"),
    ],
)
def test_mistakes_are_one_line(encoder, data, tmp_path, capsys, arguments, message):
    assert run(encoder, data, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "PE-Spatial-T16-512",
            "PE-Spatial-T16-512 has no text tower: only PE-Core was trained with texts",
        ),
        ("PE-Core-T16-385", "did you mean 'PE-Core-T16-384'?"),
    ],
)
def test_encoders_without_words_are_named(data, tmp_path, capsys, name, message):
    assert run(name, data, tmp_path / "out", "--classes", "cat", "--weights", "none") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "field 'name' is missing"),
        ('{"name": "x", "widht": 3}', "does not describe a PE-Core"),
    ],
)
def test_damaged_folders_are_named(encoder, data, tmp_path, capsys, shape, message):
    (tmp_path / "pe_core.json").write_text(shape)
    (tmp_path / "pe_core.safetensors").write_bytes((encoder / "pe_core.safetensors").read_bytes())
    assert run(tmp_path, data, tmp_path / "out", "--classes", "cat") == 2
    assert message in capsys.readouterr().err
