"""The Python of docs/plm.md runs, and its table is true."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_plm_video import write_video

from pe_spatial.plm import find_grid

PAGE = (Path(__file__).parents[2] / "docs" / "plm.md").read_text()
ROW = re.compile(r"\| (\d+) x (\d+) \| (\d+) x (\d+), (\d+)( \(shrunk\))? \| ([\d,]+) \|")


def test_the_table_of_tiles_is_true():
    rows = ROW.findall(PAGE)
    assert len(rows) == 4
    for width, height, across, down, tiles, shrunk, tokens in rows:
        (rows_of_tiles, columns), fits = find_grid(int(height), int(width), 448)
        assert (columns, rows_of_tiles, fits) == (int(across), int(down), not shrunk)
        assert int(tiles) == 1 + columns * rows_of_tiles
        assert int(tokens.replace(",", "")) == 256 * int(tiles)


def test_the_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("timm")
    pytest.importorskip("transformers", minversion="5.0")
    from test_plm_transformers import build

    monkeypatch.chdir(tmp_path)
    build(cls_token=True).save_pretrained("Perception-LM-1B", max_shard_size="100KB")
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save("photo.jpg")
    write_video(tmp_path / "clip.mp4", 3)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(block, names)  # noqa: S102 - it is our own page
    assert names["frames"].shape == (3, 4, 48)
    assert names["cheap"].max_tiles == 4
    assert names["logits"].shape == (1, names["count"] + 4, 100)
    assert torch.isfinite(names["logits"]).all()
    assert "(" in capsys.readouterr().out
