"""The Python of docs/search.md runs; that of FAISS where it is installed, and finds what exact search finds."""

import re
from pathlib import Path

import pytest
from search_scenes import index, save_encoder, save_picture

pytest.importorskip("ftfy")
BLOCKS = re.findall(r"```python\n(.*?)```", Path("docs/search.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for number in range(6):
        save_picture(folder / f"photos/{number}.png", number)
    save_picture(folder / "photo.jpg", 0)
    assert index(save_encoder(folder / "encoder"), folder / "photos", folder / "INDEX") == 0
    return folder


def run(block, place, monkeypatch):
    monkeypatch.chdir(place)
    names = {}
    exec(block, names)
    return names


def test_an_index_in_python(place, monkeypatch, capsys):
    names = run(BLOCKS[0], place, monkeypatch)
    assert len(capsys.readouterr().out.splitlines()) >= 5
    assert names["similar"][0].name.endswith(".png") and names["rows"].shape == (6, 12)


def test_faiss_finds_the_same(place, monkeypatch):
    pytest.importorskip("faiss")
    names = run(BLOCKS[1], place, monkeypatch)  # six rows are in fewer cells than are looked at
    exact = names["index"].search("a red bicycle", 6)
    assert [row.name for row in names["names"][:6]] == [hit.name for hit in exact]
    assert names["scores"][0][:6].tolist() == pytest.approx([hit.score for hit in exact], abs=1e-6)
