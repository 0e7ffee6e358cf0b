"""`pe-spatial predict --words` and `pe-spatial eval --config` of a model that nothing is trained for."""

import json

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from PIL import Image
from small_checkpoints import save_depth_model, save_detector
from small_core import WIDER, lively_core

from pe_spatial.backbones.text import save_core
from pe_spatial.commands.shell import run_command
from pe_spatial.segmentation.predictor import SegmentationPredictor
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe

pytest.importorskip("ftfy")
WORDS = "road, set {of} things, sky"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_core(lively_core(WIDER, 1), folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate(((40, 60), (50, 30), (16, 90))):
        pixels = np.random.default_rng(number).integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def predict(encoder, photos, output, *options, words=WORDS):
    arguments = ["--encoder", encoder, "--words", words, "--input", photos, "--output", output, "--device", "cpu"]
    return run_command("predict", [str(argument) for argument in (*arguments, *options)])


def listed(output):
    return json.loads((output / "segmentation.json").read_text())


def labels(output, name):
    return np.array(Image.open(output / f"labels/{name}.png"))


def test_words_become_the_files_of_every_segmenter(encoder, photos, tmp_path, capsys):
    output = tmp_path / "out"
    assert predict(encoder, photos, output, "--batch-size", 3, "--confidence") == 0
    found = listed(output)
    assert [entry["name"] for entry in found["classes"]] == ["road", "set {of} things", "sky"]
    assert [entry["file_name"] for entry in found["files"]] == ["0.png", "1.png", "2.png"]
    assert labels(output, 0).shape == (40, 60)
    assert sum(found["files"][2]["pixels"].values()) == 16 * 90
    assert (output / "pictures/0.png").is_file() and (output / "confidence/0.png").is_file()
    other = tmp_path / "other"
    assert predict(encoder, photos, other, "--no-pictures", words="sky,road,set {of} things") == 0
    assert (labels(output, 0) == np.array([2, 0, 1])[labels(other, 0)]).all()
    assert "wrote" in capsys.readouterr().out


def test_what_is_finished_is_not_done_again(encoder, photos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    assert predict(encoder, photos, output, "--no-pictures", "--limit", 1) == 0
    seen = []
    load = SegmentationPredictor.load
    monkeypatch.setattr(SegmentationPredictor, "load", lambda self, *args: seen.append(1) or load(self, *args))
    assert predict(encoder, photos, output, "--no-pictures") == 0
    assert len(seen) == 2
    assert "1 of 3 files were done by an earlier run" in capsys.readouterr().out
    for change in (("--affinity", "0"), ("--background", "grass")):
        assert predict(encoder, photos, output, "--no-pictures", *change) == 2
        assert "contains the results of another run" in capsys.readouterr().err
    assert predict(encoder, photos, output, "--no-pictures", words="road,sky") == 2  # other words, another run


def test_a_background_by_words_or_by_a_threshold(encoder, photos, tmp_path):
    assert predict(encoder, photos, tmp_path / "a", "--background", "grass,mud", "--no-pictures") == 0
    assert predict(encoder, photos, tmp_path / "b", "--background-threshold", 0.6, "--no-pictures") == 0
    for name in "ab":
        assert listed(tmp_path / name)["classes"][3]["name"] == "background"
        assert 0 < (labels(tmp_path / name, 0) == 3).mean() < 1


def test_an_affinity_of_a_block_changes_the_maps(encoder, photos, tmp_path):
    assert predict(encoder, photos, tmp_path / "plain", "--no-pictures") == 0
    assert predict(encoder, photos, tmp_path / "mixed", "--affinity", "-2", "--no-pictures") == 0
    assert any((labels(tmp_path / "plain", n) != labels(tmp_path / "mixed", n)).any() for n in range(3))


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ("", (), "there are no classes; give at least one"),
        ("road", (), "'road' is the only word, so every pixel would get it"),
        ("road,sky,road", (), "1 of the classes are given more than once (road)"),
        (WORDS, ("--encoder", "PE-Spatial-B16-512", "--weights", "none"), "has no text tower: only PE-Core"),
        (WORDS, ("--encoder", "PE-Core-B16"), "no encoder 'PE-Core-B16'"),
        (WORDS, ("--affinity", "PE-Spatial"), "no encoder 'PE-Spatial'"),
        (WORDS, ("--affinity", "9"), "block 9 does not exist"),
        (WORDS, ("--affinity", "1", "--affinity-weights", "none"), "--affinity 1 is a block of --encoder"),
        (WORDS, ("--affinity-weights", "none"), "--affinity-weights belongs to --affinity"),
        (WORDS, ("--background-threshold", "1.5"), "1.5 is too large"),
        (WORDS, ("--background-threshold", "0"), "give a number between 0 and 1"),
        (WORDS, ("--background", "a", "--background-threshold", "0.5"), "leave out either"),
        ("road,background", ("--background", "sky"), "'background' is among --words"),
        (WORDS, ("--gamma", "0"), "gamma 0.0 must be above 0"),
        (WORDS, ("--threshold", "0.5"), "--threshold is for the scores of objects"),
        (WORDS, ("--checkpoint", "x.pth"), "x.pth"),
        (WORDS, ("--checkpoint", "x.pth", "--affinity", "0"), "--affinity is for maps of words"),
        (WORDS, ("--checkpoint", "a=x.pth", "--checkpoint", "b=x.pth"), "give one --checkpoint"),
        (WORDS, ("--slices", "64"), "--slices is for detection"),
    ],
)
def test_mistakes_are_one_line(encoder, photos, tmp_path, capsys, words, options, message):
    try:
        status = predict(encoder, photos, tmp_path / "out", *options, words=words)
    except SystemExit as error:  # argparse
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/segmentation.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --checkpoint, or classes with --words and --encoder"),
        (["--words", "a,b"], "--words needs --encoder"),
        (["--checkpoint", "x.pth", "--affinity", "3"], "--affinity belongs to --words"),
    ],
)
def test_there_is_a_checkpoint_or_there_are_words(photos, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        run_command("predict", ["--input", str(photos), "--output", str(tmp_path), *options])
    assert message in capsys.readouterr().err


def test_a_prompt_that_is_too_long_is_cut_and_said_once(encoder, photos, tmp_path, capsys):
    words = "sky," + " ".join(["very"] * 30) + " green grass"
    assert predict(encoder, photos, tmp_path, "--limit", 1, "--no-pictures", words=words) == 0
    assert capsys.readouterr().err.count("1 of 2 texts longer than 14 word pieces, and cut there") == 1


def test_a_trained_head_finds_any_words(encoder, photos, tmp_path, capsys):
    """Its checkpoint names no classes, for it was trained on captions."""
    maps = {"type": "TextAlignedHead", "core": {"variant": WIDER}, "caption_loss": {}}
    maps |= {"backbone": {"type": "PEBackbone", "variant": WIDER}}
    config = {
        "model": {"type": "OpenVocabularySegmentor", "maps": maps},
        "custom_imports": {"imports": ["pe_spatial.segmentation"]},
        "val_dataloader": {"dataset": {"pipeline": [{"type": "LoadImage"}, {"type": "PackSample"}]}},
    }
    torch.manual_seed(0)
    weights = MODELS.build(config["model"]).state_dict()
    save_checkpoint({"state_dict": weights, "pe_spatial": describe(config, {})}, tmp_path / "run.pth")
    place = ["--checkpoint", tmp_path / "run.pth", "--input", photos, "--output", tmp_path / "out", "--device", "cpu"]
    arguments = [str(argument) for argument in place]
    assert run_command("predict", [*arguments, "--words", WORDS]) == 0
    assert [entry["name"] for entry in listed(tmp_path / "out")["classes"]] == ["road", "set {of} things", "sky"]
    assert run_command("predict", [*arguments, "--words", "road,sky"]) == 2
    assert "contains the results of another run" in capsys.readouterr().err


def test_the_words_of_a_model_without_words_need_an_encoder(photos, tmp_path, capsys):
    save_detector(tmp_path / "model.pth")
    arguments = [
        "--checkpoint",
        tmp_path / "model.pth",
        "--words",
        "a,b",
        "--input",
        photos,
        "--output",
        tmp_path / "o",
    ]
    assert run_command("predict", [str(argument) for argument in arguments]) == 2
    assert "holds a MaskRCNN, which does not know words: give a PE-Core with --encoder" in capsys.readouterr().err


def test_words_name_no_objects_of_a_model_without_any(encoder, photos, tmp_path, capsys):
    save_depth_model(tmp_path / "depth.pth")
    arguments = ("--checkpoint", tmp_path / "depth.pth")
    assert predict(encoder, photos, tmp_path / "o", *arguments) == 2
    assert "holds a model of depth: --words works with a detector that has masks" in capsys.readouterr().err


# --- scoring ----------------------------------------------------------------------------------------------------------
CONFIG = """
_base_: [{configs}/_base_/runtime.yaml, {configs}/_base_/datasets/segmentation_folder.yaml]
custom_imports: {{imports: [pe_spatial.segmentation]}}
model:
  type: OpenVocabularySegmentor
  maps: {{core: {{variant: {shape}, weights: {encoder}/pe_core.safetensors}}}}
val_dataloader: {{num_workers: 0, persistent_workers: false}}
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Pictures whose label maps are what the words give."""
    root = tmp_path / "data"
    for number in range(2):
        for kind in ("images", "labels"):
            (root / kind / "val").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(256, size=(64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/val/{number}.png")
        Image.fromarray(np.full((64, 96), number, np.uint8)).save(root / f"labels/val/{number}.png")
    lines = ("classes: [road, sky]", "images: {val: images/val}", "labels: {val: labels/val}", "")
    (root / "data.yaml").write_text("\n".join(lines))
    monkeypatch.setenv("SEGMENTATION_ROOT", str(root))
    return root


def test_a_config_alone_is_scored_by_the_usual_metric(encoder, data, tmp_path):
    from pathlib import Path

    configs = Path(__file__).parents[2] / "configs"
    config = tmp_path / "words.yaml"
    config.write_text(CONFIG.format(configs=configs, shape=json.dumps(WIDER), encoder=encoder))
    output = tmp_path / "out"
    arguments = ["--config", str(config), "--output", str(output), "--device", "cpu", "_image_size=64"]
    assert run_command("eval", arguments) == 0
    scored = json.loads((output / "result.json").read_text())
    labels = []
    assert (
        predict(
            encoder,
            data / "images/val",
            tmp_path / "p",
            "--image-size",
            64,
            "--window",
            96,
            96,
            "--no-pictures",
            words="road,sky",
        )
        == 0
    )
    for number in range(2):
        labels.append(np.array(Image.open(tmp_path / f"p/labels/{number}.png")))
    right = [(labels[k] == k).sum() for k in range(2)]
    union = [(labels[k] == k).sum() + (labels[k] != k).sum() + (labels[1 - k] == k).sum() for k in range(2)]
    expected = 100 * np.mean([a / b for a, b in zip(right, union, strict=True)])
    text = json.dumps(scored)
    found = [value for key, value in _numbers(scored) if key.endswith("mIoU")]
    assert any(abs(value - expected) < 0.01 for value in found), text[:500]


def _numbers(content):
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, int | float):
                yield key, value
            yield from _numbers(value)
    elif isinstance(content, list):
        for value in content:
            yield from _numbers(value)


def test_a_config_of_a_model_that_is_trained_needs_a_run(capsys):
    assert run_command("eval", ["--config", "demo/seg_linear_tiny_shapes.yaml"]) == 2
    assert "a SemanticSegmentor, which needs trained weights; give its run, or a checkpoint" in capsys.readouterr().err
