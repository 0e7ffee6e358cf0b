"""The Python of docs/transformers.md runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from pe_spatial.backbones import PEBackbone

PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(PEBackbone("PE-Spatial-T16-512").encoder.state_dict(), "PE-Spatial-T16-512.pt")
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    assert [tuple(level.shape) for level in names["maps"]] == [(1, 192, 32, 32)] * 4
    assert names["logits"].shape == (1, 19, 128, 256)
    assert names["again"].dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in names["model"].backbone.parameters())
    plain = PEBackbone("PE-Spatial-T16-512", [2, 5, 8, 11], weights="backbone/model.safetensors").eval()
    with torch.no_grad():
        for one, other in zip(plain(names["pixels"]), names["maps"], strict=True):
            assert torch.equal(one, other)
