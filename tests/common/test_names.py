"""Names of outputs: whatever the inputs are called, no two outputs meet on any file system."""

import random
import unicodedata
from pathlib import PurePosixPath

import pytest

from pe_spatial.common.names import output_stems

OUTPUTS = (".png", ".json", ".mp4", ".npy")


def files_of(name, stem):
    """What may be written for an input."""
    files = [stem + suffix for suffix in OUTPUTS]
    if name.lower().endswith((".mp4", ".mov", ".gif")):
        files += [f"{stem}/{frame:06d}.png" for frame in range(3)] + [f"{stem}_{frame:06d}.png" for frame in range(3)]
    return files


def folded(path):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def random_names(draw):
    """Names from few parts, so that many of them are alike."""
    parts = ["a", "A", "a.jpg", "a.png", "b", "é", "e\u0301", "a_000001", "000001", "a.mp4", "x" * 220, "ß", "ss"]
    folders = ["", "", "a/", "A/", "a.mp4/", "../", "../../", "/abs/", "_/", "b/a/"]
    suffixes = [".jpg", ".png", ".PNG", ".mov", ".mp4", ".gif", ""]
    return list({draw.choice(folders) + draw.choice(parts) + draw.choice(suffixes) for _ in range(draw.randint(2, 30))})


@pytest.mark.parametrize("seed", range(200))
def test_outputs_never_meet(seed):
    draw = random.Random(seed)
    names = random_names(draw)
    stems = output_stems(names)
    files = [folded(file) for name in names for file in files_of(name, stems[name])]
    assert len(set(files)) == len(files)
    for file in files:
        path = PurePosixPath(file)
        assert not path.is_absolute() and ".." not in path.parts
        assert all(len(part.encode()) <= 255 for part in path.parts)
    shuffled = names[:]
    draw.shuffle(shuffled)
    assert output_stems(shuffled) == stems


@pytest.mark.parametrize("seed", range(50))
def test_files_that_come_later_change_only_the_names_that_they_meet(seed):
    draw = random.Random(seed)
    names = random_names(draw)
    before = output_stems(names)
    assert output_stems([*names, "later/quite different.jpg"]) == {
        **before,
        "later/quite different.jpg": "later/quite different",
    }


def test_names_stay_as_short_as_they_can():
    expected = {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "b/a.jpg": "b/a",
        "c.1.jpg": "c.1",
        "c.2.jpg": "c.2",
        "clip.mov": "clip.mov",
        "clip.mp4": "clip.mp4",
        "run.mp4": "run.mp4",
        "run/1.jpg": "run/1",
        "UP.jpg": "UP",
    }
    assert output_stems(expected) == expected
    twins = output_stems(["A.jpg", "a.jpg"])
    assert twins["A.jpg"].startswith("A.jpg-") and twins["a.jpg"].startswith("a.jpg-")


def test_paths_from_elsewhere_are_put_below_the_output():
    assert output_stems(["../x.jpg", "/data/y.png"]) == {"../x.jpg": "_/x", "/data/y.png": "data/y"}
