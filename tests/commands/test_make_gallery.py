"""The pictures of the gallery: those of the page are there and small, and the script that makes them works."""

import re
from pathlib import Path

import make_gallery
import numpy as np
import pytest
import torch
from PIL import Image

from pe_spatial.commands.shell import run_module
from pe_spatial.common.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gallery.md"


@pytest.fixture
def gallery(tmp_path):
    pytest.importorskip("skimage")
    return make_gallery.Gallery(tmp_path / "work", tmp_path / "none.safetensors", tmp_path / "out", tmp_path / "s.jpg")


def test_every_picture_of_the_page_is_there_with_its_text_and_small():
    named = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    files = {(PAGE.parent / path).resolve() for _, path in named}
    assert len(files) == len(named) == len(make_gallery.PICTURES)
    assert set((ROOT / "docs/images/gallery").iterdir()) <= files
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) <= make_gallery.LARGEST and sum(sizes) < 3_000_000
    for path in files:
        with Image.open(path) as picture:
            assert min(picture.size) >= 200 and max(picture.size) <= 2200


def test_one_command_makes_the_pictures_that_are_asked_for(gallery, tmp_path, monkeypatch, capsys):
    asked = []

    def picture(gallery):
        asked.append(gallery.work)
        return gallery.save("a.jpg", torch.zeros(3, 20, 30, dtype=torch.uint8))

    monkeypatch.setattr(make_gallery, "PICTURES", {"a": picture, "b": picture})
    options = ["--weights", "x.safetensors", "--work", str(tmp_path / "w"), "--output", str(tmp_path / "o")]
    assert run_module(make_gallery, "make_gallery", [*options, "--only", "a"]) == 0
    assert run_module(make_gallery, "make_gallery", options) == 0
    assert len(asked) == 3 and "a.jpg: 1 kB" in capsys.readouterr().out


def test_large_pictures_are_made_small_enough(tmp_path):
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 700, 900), dtype=np.uint8))
    path = make_gallery.save_small(tmp_path / "noise.jpg", noise)
    assert path.stat().st_size <= make_gallery.LARGEST
    chart = make_gallery.save_small(tmp_path / "chart.png", torch.full((3, 50, 60), 255, dtype=torch.uint8))
    with Image.open(chart) as picture:
        assert picture.size == (60, 50)


def test_the_view_moves_and_its_objects_are_on_the_first_frame(gallery):
    frames, mask = make_gallery.moving_view(gallery)
    pictures = [np.asarray(Image.open(path)) for path in sorted(frames.iterdir())]
    assert len(pictures) == make_gallery.FRAMES
    assert not np.array_equal(pictures[0], pictures[1])
    assert set(np.unique(np.asarray(Image.open(mask)))) == {0, *make_gallery.OBJECTS}
    assert (gallery.photographs() / "rocket.jpg").is_file()


def test_a_command_that_fails_is_named(gallery):
    with pytest.raises(UserError, match=r"failed: pe-spatial compare nowhere; its messages stand above"):
        gallery.command("compare", "nowhere")
