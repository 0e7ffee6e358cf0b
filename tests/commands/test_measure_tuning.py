"""The study of what each tuning keeps in memory, on a small encoder."""

import json

import measure_tuning
import pytest

from pe_spatial.commands.shell import run_module

VARIANT = {"patch_size": 16, "width": 32, "depth": 4, "heads": 2, "mlp_ratio": 4, "image_size": 64, "cls_token": False}


def test_states_are_sixteen_bytes_of_what_is_trained_and_four_of_what_is_not(monkeypatch, capsys):
    monkeypatch.setattr(measure_tuning, "in_own_process", lambda function, *arguments: function(*arguments))
    arguments = ["--variant", json.dumps(VARIANT), "--image-size", "64", "--rank", "2"]
    assert run_module(measure_tuning, "measure_tuning.py", arguments) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {row[1]: dict(zip(row[2::2], map(float, row[3::2]), strict=True)) for row in rows}
    assert found["lora"]["trained"] == 2 * 16 * 32 * 4
    assert found["frozen"]["trained"] == 0
    whole = found["full"]["trained"]
    for tuning, weights in (("full", whole), ("lora", whole + found["lora"]["trained"]), ("frozen", whole)):
        expected = (4 * weights + 12 * found[tuning]["trained"]) / 1e9
        assert found[tuning]["states_gb"] == pytest.approx(
            expected, rel=1e-2
        )  # four digits, and a counter of steps each
        assert found[tuning]["step_s"] > 0
