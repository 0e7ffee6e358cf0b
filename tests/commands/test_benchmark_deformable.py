"""The benchmark of deformable attention: what it compares is equal, and it reports; its figures are not tested."""

import json

import torch

from pe_spatial.commands.benchmark import deformable
from pe_spatial.commands.shell import run_command


def test_what_is_compared_computes_the_same():
    inputs = deformable.make_inputs(deformable.pyramid(64), "float32", "cpu")
    results = {}
    for name, attend in deformable.implementations(chunk=16).items():
        output = attend(*inputs)
        leaves = (inputs[0], *inputs[2:])
        results[name] = (output.detach(), *torch.autograd.grad(output.square().sum(), leaves))
    expected, *others = results.values()
    for found in others:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_the_levels_are_those_of_the_official_model():
    assert deformable.pyramid(1824) == [(side, side) for side in (228, 114, 57, 29, 15)]
    assert deformable.pyramid(256) == [(side, side) for side in (32, 16, 8, 4, 2)]


def test_it_reports(tmp_path, capsys):
    path = tmp_path / "report.json"
    options = ["--image-size", "64", "--rounds", "1", "--no-memory", "--dtype", "float32", "bfloat16", "--chunk", "20"]
    run_command("benchmark", ["deformable", *options, "--device", "cpu", "--threads", "1", "--json", str(path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["dtype"], row["name"]) for row in rows] == [
        (dtype, name)
        for dtype in ("float32", "bfloat16")
        for name in ("grid_sample", "ours, all at once", "ours, 20 at once")
    ]
    assert all(row["forward_s"] > 0 and row["backward_s"] > 0 for row in rows)
    assert "levels 8x8 4x4 2x2 1x1 1x1: 86 queries" in capsys.readouterr().out


def test_memory_is_that_of_the_pass():
    small, large = (deformable.peak(size, "float32", "cpu", 64, "grid_sample", "training") for size in (128, 512))
    assert large > 100 + small  # 5 levels of samples are tens of MB each
