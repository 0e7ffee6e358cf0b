"""The benchmark runs, compares and reports; what it measures is not tested."""

import json

import pytest
import torch

from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.commands.benchmark import backbone
from pe_spatial.commands.benchmark.measuring import take_turns
from pe_spatial.commands.shell import run_command

SMALL = ["backbone", "--variant", "PE-Spatial-T16-512", "--device", "cpu", "--threads", "1", "--image-size", "64"]


def test_backbone_against_timm(tmp_path, capsys):
    pytest.importorskip("timm")
    options = [
        "--dtype",
        "fp32,bf16",
        "--pass",
        "forward,backward",
        "--rounds",
        "2",
        "--json",
        str(tmp_path / "b.json"),
    ]
    run_command("benchmark", SMALL + options)
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["torch"] == torch.__version__
    assert (report["variant"], report["size"], report["batch"]) == ("PE-Spatial-T16-512", 64, 1)
    assert [(row["dtype"], row["pass"]) for row in report["rows"]] == [
        ("fp32", "forward"),
        ("fp32", "backward"),
        ("bf16", "forward"),
        ("bf16", "backward"),
    ]
    assert all(row["ours_ms"] > 0 and row["timm_ms"] > 0 and row["timm_over_ours"] > 0 for row in report["rows"])
    printed = capsys.readouterr().out
    assert "timm_over_ours" in printed
    assert "threads" in printed


def test_without_timm_it_says_so_and_times_ours(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    run_command("benchmark", [*SMALL, "--rounds", "1"])
    assert "timm is missing" in capsys.readouterr().out


def test_both_models_compute_the_same():
    eva = pytest.importorskip("timm.models.eva")
    config = get_variant("PE-Core-T16-384")
    ours = VisionTransformer(config)
    theirs, their_method = backbone.build_timm("vit_pe_core_tiny_patch16_384", config, config.image_size)
    theirs.load_state_dict(eva.checkpoint_filter_fn(ours.state_dict(), theirs), strict=False)
    torch.nn.init.zeros_(theirs.head.bias)
    x = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), getattr(theirs.eval(), their_method)(x))


def test_rounds_alternate_after_one_to_warm_up():
    calls = []
    ways = {name: lambda number, name=name: calls.append(name) or number for name in "ab"}
    assert take_turns(ways, 3) == {"a": [1, 2, 3], "b": [1, 2, 3]}
    assert "".join(calls) == "baabbaab"


def test_a_misspelled_choice_is_named(capsys):
    with pytest.raises(SystemExit):
        run_command("benchmark", [*SMALL, "--dtype", "fp16"])
    assert "'fp16' is not one of fp32, bf16" in capsys.readouterr().err


def test_tracking_compares_equal_results(tmp_path, capsys):
    clip = ["tracking", "--device", "cpu", "--threads", "1", "--grid", "5", "9", "--channels", "8", "--frames", "10"]
    run_command("benchmark", [*clip, "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["difference"] < 1e-5 and report["ratio"] > 0
    assert f"ratio {report['ratio']:.4g}" in capsys.readouterr().out


def test_heads_on_one_pass_are_compared_with_each_alone(tmp_path):
    options = ["--heads", "seg,depth", "--variant", "PE-Spatial-T16-512", "--image-size", "64", "--pictures", "1"]
    options += ["--rounds", "1", "--device", "cpu", "--threads", "1", "--json", str(tmp_path / "b.json")]
    assert run_command("benchmark", ["shared", *options]) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["difference"] <= 1e-6 and report["heads"] == "seg,depth"
    assert 0 < report["shared_over_sum"] < report["shared_over_slowest"]
