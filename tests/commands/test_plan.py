"""`pe-spatial plan`, and `train --memory`: tables, overrides, mistakes."""

import json

import pytest

from pe_spatial.commands.shell import run_command
from pe_spatial.common.devices import device_name
from pe_spatial.training.config import load_config

CONFIG = ["--config", "demo/depth_dpt_tiny_shapes", "model.data_preprocessor.pad_to=[64,64]"]


@pytest.fixture(autouse=True)
def one_way(monkeypatch):
    """Two ways are enough for a table."""
    from pe_spatial.training.planner import planning

    every = planning.variations
    monkeypatch.setattr(planning, "variations", lambda config: list(every(config))[:2])


def test_overrides_alone_are_what_train_takes(capsys):
    assert run_command("plan", [*CONFIG, "--memory", "64gb", "--overrides", "train_dataloader.batch_size=16"]) == 0
    printed = capsys.readouterr().out.split()
    assert load_config(CONFIG[1], printed).train_dataloader.batch_size == 16


def test_cards_correct_the_table(capsys, tmp_path):
    entry = {"predicted_memory_gb": 1.0, "measured_memory_gb": 2.0}
    (tmp_path / "result.json").write_text(json.dumps({"device": device_name("cpu"), "plan": entry}))
    arguments = [*CONFIG, "--memory", "64gb", "--device", "cpu", "--cards", str(tmp_path)]
    assert run_command("plan", arguments) == 0
    printed = capsys.readouterr().out
    assert "corrected by 1 result cards; 0 say nothing" in printed and printed.count("\n* ") == 1
    assert printed.splitlines()[-1].startswith("pe-spatial train --config demo/depth_dpt_tiny_shapes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "1mb"], "nothing fits into 0.001 GB; the smallest needs"),
        (["--memory", "lots"], "memory 'lots' is not an amount"),
        (["--memory", "1gb", "--cards", "nowhere"], "--cards nowhere: no such folder"),
    ],
)
def test_mistakes_end_with_status_2(arguments, message, capsys):
    assert run_command("plan", [*CONFIG, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_training_is_planned_before_it_begins(capsys):
    """The plan comes before anything is built: here nothing fits, and nothing begins."""
    assert run_command("train", [*CONFIG, "--memory", "1mb"]) == 2
    assert "nothing fits into 0.001 GB" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_command("train", [*CONFIG, "--memory", "1gb", "--resume-or-start"])
