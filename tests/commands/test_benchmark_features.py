"""The benchmark of features: both ways do all of the work, and the figures follow from their times."""

import json

import pytest
from feature_scenes import TINY
from small_checkpoints import save_input

from pe_spatial.backbones import VARIANTS
from pe_spatial.commands.benchmark import features as benchmark
from pe_spatial.commands.shell import run_command


@pytest.mark.parametrize("given", [False, True])
def test_both_do_the_work(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)
    monkeypatch.setattr(benchmark, "_SIZE", (80, 160))
    written = []
    write = benchmark.write

    def noted(extractor, files, folder, options):
        seconds = write(extractor, files, folder, options)
        written.append(len(list((folder / "features").rglob("*.safetensors"))))
        return seconds

    monkeypatch.setattr(benchmark, "write", noted)
    source = ["--input", str(save_input(tmp_path / "in", pictures=4)), "--batch-size", "2"] if given else []
    options = ["--encoder", "tiny", "--limit", "3", "--rounds", "2", "--device", "cpu", "--threads", "1", *source]
    assert run_command("benchmark", ["features", *options, "--json", str(tmp_path / "figures.json")]) == 0
    assert written == [3, 3, 3]  # one round warms up
    figures = json.loads((tmp_path / "figures.json").read_text())
    for clock in ("wall", "cpu"):
        assert 0 < figures[f"of_the_encoder_by_{clock}"] < 1.2
        assert figures[f"encoder_images_per_{clock}_s"] > 0
    assert "of_the_encoder_by_cpu" in capsys.readouterr().out
