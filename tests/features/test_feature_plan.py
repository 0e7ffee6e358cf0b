from pathlib import Path

import pytest

from pe_spatial.common.sources import Entry, resolve_sources
from pe_spatial.features.plan import bundles_of, targets_of
from pe_spatial.features.sizing import Sizing


def entries(*names):
    return {name: Entry(Path(name), "video" if name.endswith(".mp4") else "image", name) for name in names}


@pytest.mark.parametrize("size", [1, 5, 100])
def test_every_file_is_in_one_bundle_and_batches_are_full_and_of_one_size(size):
    files = entries(*(f"{number}.png" for number in range(23)), "film.mp4")
    targets = {f"{number}.png": (64, 64 + 16 * (number % 3)) for number in range(23)}
    bundles = bundles_of(files, targets, batch=4, size=size)
    batches = [batch for bundle in bundles for batch in bundle.batches]
    assert sorted(name for batch in batches for name in batch) == sorted(files)
    assert len({bundle.name for bundle in bundles}) == len(bundles)
    pictures = [batch for batch in batches if batch != ("film.mp4",)]
    assert all(len({targets[name] for name in batch}) == 1 for batch in pictures)
    assert sorted(map(len, pictures)) == [3, 4, 4, 4, 4, 4]  # 8, 8 and 7 pictures of a size
    assert [bundle.is_video for bundle in bundles] == [False] * (len(bundles) - 1) + [True]
    assert all(len(bundle.names) >= size for bundle in bundles[:-2])
    ratios = [targets[batch[0]][1] / targets[batch[0]][0] for batch in pictures]
    assert ratios == sorted(ratios)


def test_sizes_come_from_the_heads_of_files(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"no picture")
    try:
        files = {entry.name: entry for entry in resolve_sources(photos)}
        seen = []
        targets = targets_of(files, Sizing(64, "shorter", 8), lambda: seen.append(1))
    finally:
        (photos / "broken.png").unlink()
    assert targets["a1.png"] == (64, 104) and targets["broken.png"] is None and "film.mp4" not in targets
    assert len(seen) == len(targets)
    assert set(targets_of(files, Sizing(64, "square", 8)).values()) == {(64, 64)}
