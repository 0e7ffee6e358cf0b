"""`pe-spatial benchmark search`: both ways find the same rows, and the figures are there."""

import json

from pe_spatial.commands.shell import run_command


def test_both_find_the_same_rows(tmp_path):
    figures = tmp_path / "figures.json"
    options = ["--rows", "3000", "--channels", "16", "--queries", "3", "--rounds", "1", "--threads", "1"]
    options += ["--dtype", "fp16", "--folder", str(tmp_path)]
    assert run_command("benchmark", ["search", *options, "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["same_rows"] and found["search_wall_s"] > 0 and found["product_cpu_s"] > 0
    assert 0 < found["search_mb"] < found["product_mb"] * 10
