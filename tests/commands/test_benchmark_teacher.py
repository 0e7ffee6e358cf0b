import json

import numpy as np
import pytest
from PIL import Image

from pe_spatial.commands.shell import run_command


def test_both_ways_are_timed_on_every_image(tmp_path, capsys):
    pytest.importorskip("sam2", reason="the package sam2 is not installed (pip install sam2==1.1.0)")
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "black.png")
    options = ["--image-size", "128", "--grid", "2", "--device", "cpu", "--threads", "1"]
    run_command("benchmark", ["teacher", "--input", str(tmp_path), *options, "--json", str(tmp_path / "times.json")])
    assert "ratio_to_teacher" in capsys.readouterr().out
    seconds = json.loads((tmp_path / "times.json").read_text())["seconds"]
    assert len(seconds) == 3
    assert all(len(times) == 1 and times[0] > 0 for times in seconds.values())
