"""The code of docs/features.md runs, and its search finds what is alike."""

import re
from pathlib import Path

import numpy as np
import pytest
from feature_scenes import run
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs/features.md"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A picture, almost the same one, and others; their features in OUT."""
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    pictures = [generator.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(6)]
    noisy = np.clip(pictures[0].astype(int) + generator.integers(-9, 10, pictures[0].shape), 0, 255)
    names = ["photo.jpg", *(f"{number}.jpg" for number in range(5)), "alike.jpg"]
    for name, pixels in zip(names, [*pictures, noisy.astype(np.uint8)], strict=True):
        Image.fromarray(pixels).save(tmp_path / "photos" / name, quality=95)
    monkeypatch.chdir(tmp_path)
    assert run("photos", "OUT", "--pool", "mean", "--layers", "0,2") == 0
    return tmp_path


def test_the_code_of_the_page_runs(place, capsys):
    search, extraction = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(search.strip().splitlines()) <= 10
    capsys.readouterr()
    exec(compile(search, str(PAGE), "exec"), {})
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in found[:2]] == ["photo.jpg", "alike.jpg"] and len(found) == 5
    assert float(found[0][0]) == pytest.approx(1, abs=1e-3)
    (place / "photo.jpg").write_bytes((place / "photos/photo.jpg").read_bytes())
    (place / "other.jpg").write_bytes((place / "photos/0.jpg").read_bytes())
    words = {"PE-Spatial-B16-512": "tiny", "5, 8, 11": "0, 1, 2", "layer_11": "layer_2"}
    for word, short in words.items():
        assert word in extraction
        extraction = extraction.replace(word, short)
    extraction = extraction.replace('"tiny"', '"tiny", weights="none"')
    values = {}
    exec(compile(extraction, str(PAGE), "exec"), values)
    assert values["maps"].shape == (32, 8, 11) and values["tokens"].shape == (2, 64, 32)
