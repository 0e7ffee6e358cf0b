"""The loss by hand, the schedule, and the demo's folder; that training learns is measured in docs/zero_shot.md."""

import json
import math

import pytest
import torch
from small_core import TINY

from pe_spatial.backbones import PECore
from pe_spatial.backbones.text import open_core
from pe_spatial.commands.shell import run_command
from pe_spatial.demo.captions import HELD_OUT
from pe_spatial.zero_shot import demo, training
from pe_spatial.zero_shot.demo import held_out_scenes
from pe_spatial.zero_shot.training import TrainingSettings, contrastive_loss, rate, train_small_core

pytest.importorskip("ftfy")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(training, "SMALL_CORE", {**TINY, "image_size": training.SIDE})


@torch.no_grad()
def test_the_loss_is_the_mean_of_both_cross_entropies():
    torch.manual_seed(0)
    model = PECore(TINY)
    images, texts = torch.randn(3, 3, 16, 16), ["a cat", "a dog", "a cow"]
    features = model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)
    logits = model.logits(*features)
    one = [logits.log_softmax(0).diag(), logits.log_softmax(1).diag()]
    expected = -sum(values.mean() for values in one) / 2
    torch.testing.assert_close(contrastive_loss(model, images, texts, torch.eye(3, dtype=torch.bool)), expected)
    everything = torch.ones(3, 3, dtype=torch.bool)  # then a uniform answer is the best
    uniform = -sum(logits.log_softmax(axis).mean() for axis in (0, 1)) / 2
    torch.testing.assert_close(contrastive_loss(model, images, texts, everything), uniform)


def test_the_rate_rises_and_falls():
    rates = [rate(step, 100) for step in range(100)]
    assert max(rates) == 1 == rates[9]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert rate(0, 1) == 1


def test_training_is_a_function_of_its_seed_and_lowers_the_loss(monkeypatch):
    losses = []

    def spy(*arguments):
        losses.append(contrastive_loss(*arguments))
        return losses[-1]

    monkeypatch.setattr(training, "contrastive_loss", spy)
    settings = TrainingSettings(iterations=12, batch_size=8, scenes=8, learning_rate=3e-3)
    first, again = train_small_core(settings), train_small_core(settings)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    values = [loss.item() for loss in losses[:12]]
    assert sum(values[-3:]) < sum(values[:3])
    assert values == [loss.item() for loss in losses[12:]]
    assert not first.training
    assert first.logit_scale < math.log(100) + 1e-6


def test_the_held_out_scenes_are_held_out():
    assert {words for _, words in held_out_scenes(60)} == HELD_OUT


@pytest.mark.parametrize("field", ["iterations", "batch_size", "scenes"])
def test_numbers_below_one_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} 0 must be at least 1"):
        TrainingSettings(**{field: 0})


def test_the_demo_writes_what_the_commands_take(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_JUDGED", 30)
    monkeypatch.setattr(demo, "_PICTURES", 60)
    output = tmp_path / "words"
    command = ["--words", "--output", str(output), "--iterations", "1"]
    assert run_command("demo", command) == 0
    assert "accuracy" in capsys.readouterr().out
    made = json.loads((output / "demo.json").read_text())
    assert made["chance"] == pytest.approx(1 / 54, abs=1e-4) and 0 <= made["accuracy"] <= 1
    assert open_core(output, device="cpu").image_size == training.SIDE
    assert {path.parent.name for path in output.glob("held_out/*/*.png")} == {
        str(words).removeprefix("a ") for words in HELD_OUT
    }
    captions = json.loads((output / "captions.json").read_text())
    assert all((output / "held_out" / name).is_file() and len(texts) == 2 for name, texts in captions.items())
    assert len((output / "classes.txt").read_text().split("\n")) == 55
    classify = ["--encoder", str(output), "--input", str(output / "videos.csv"), "--evaluate", "--device", "cpu"]
    assert run_command("classify", [*classify, "--output", str(tmp_path / "out")]) == 0
    assert "6 files" in capsys.readouterr().out
    (output / "mine.txt").write_text("kept")
    assert run_command("demo", command) == 0
    assert "is complete already" in capsys.readouterr().out
    assert run_command("demo", [*command, "--seed", "1"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert run_command("demo", [*command, "--seed", "1", "--force"]) == 0
    assert (output / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--words", "--images", "3"], "--images has no effect with --words; remove it"),
        (["--iterations", "3"], "--iterations 3 is of a training; give --words too"),
    ],
)
def test_options_of_the_other_demo_are_refused(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run_command("demo", ["--output", str(tmp_path / "x"), *arguments])
    assert message in capsys.readouterr().err
