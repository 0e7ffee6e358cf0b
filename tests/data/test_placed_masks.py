"""Masks of parts of a picture: as RLEs they are those of the whole picture, and back."""

import numpy as np
import pytest
import torch

from pe_spatial.data import (
    cut_mask,
    decode_mask,
    decode_masks,
    encode_masks,
    mask_areas,
    mirror_masks,
    move_masks,
    place_columns,
    place_masks,
    place_profiles,
)


def random_part(seed):
    """A bitmap of 3 masks of a part, the part's corner, the picture's size, and the bitmap of the picture."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    share = (0.0, 0.2, 0.8, 1.0)[seed % 4]
    part = torch.from_numpy(rng.random((3, h, w)) < share)
    whole = torch.zeros(3, height, width, dtype=torch.bool)
    whole[:, top : top + h, left : left + w] = part
    return part, (top, left), (int(height), int(width)), whole


@pytest.mark.parametrize("seeds", [range(100), range(100, 200)])
def test_placed_masks_are_those_of_the_whole_picture(seeds):
    for part, corner, size, whole in map(random_part, seeds):
        placed = place_masks(part, corner, size)
        assert placed == encode_masks(whole) == encode_masks(placed)
        assert mask_areas(placed) == whole.sum((1, 2)).tolist()
        assert torch.equal(decode_masks(placed), whole) and torch.equal(decode_masks(whole), whole)
        assert all((decode_mask(rle, size) == bitmap.numpy()).all() for rle, bitmap in zip(placed, whole, strict=True))


@pytest.mark.parametrize("margin", [0, 1, 30])
def test_the_cut_part_holds_the_mask_and_no_more_than_its_margin(margin):
    for *_, size, whole in map(random_part, range(100)):
        for rle, bitmap in zip(encode_masks(whole), whole.numpy(), strict=True):
            (rows, columns), part = cut_mask(rle, margin)
            drawn = np.zeros(size, bool)
            drawn[rows, columns] = part
            assert (drawn == bitmap).all()
            if margin and bitmap.any():
                y, x = np.nonzero(bitmap)
                assert rows.start <= max(y.min() - margin, 0) and rows.stop >= min(y.max() + 1 + margin, size[0])
                assert columns == slice(max(x.min() - margin, 0), min(x.max() + 1 + margin, size[1]))
            elif not bitmap.any():
                assert part.size == 0


def test_a_mask_of_a_hundred_megapixels_takes_its_runs_alone():
    part = torch.ones(1, 20, 30, dtype=torch.bool)
    (rle,) = place_masks(part, (7000, 8000), (10_000, 10_000))
    assert mask_areas([rle] * 300) == [600] * 300
    assert rle["size"] == [10_000, 10_000] and len(rle["counts"]) < 200 and mask_areas([rle]) == [600]
    region, bitmap = cut_mask(rle)
    assert region == (slice(7000, 7020), slice(8000, 8030)) and bitmap.all()


def test_no_masks():
    assert place_masks(torch.zeros(0, 4, 5, dtype=torch.bool), (0, 0), (9, 9)) == [] == mask_areas([])
    assert decode_masks([]).shape == (0, 0, 0)
    assert move_masks([], (0, 0), (9, 9)) == [] == mirror_masks([])
    assert decode_masks([], (4, 5)).shape == (0, 4, 5)


@pytest.mark.parametrize("seeds", [range(40)])
def test_masks_are_moved_and_mirrored_without_a_bitmap_of_the_picture(seeds):
    for part, corner, size, whole in map(random_part, seeds):
        assert move_masks(encode_masks(part), corner, size) == encode_masks(whole)
        assert mirror_masks(encode_masks(whole)) == encode_masks(whole.flip(-1))
        assert mirror_masks(mirror_masks(encode_masks(whole))) == encode_masks(whole)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_strips_of_a_mask_are_one_mask(step):
    for part, corner, size, whole in map(random_part, range(100)):
        for bitmap, rle in zip(part, encode_masks(whole), strict=True):
            assert place_columns(bitmap.T.split(step), corner, size) == rle
    assert place_columns([], (0, 0), (3, 4)) == encode_masks(torch.zeros(1, 3, 4, dtype=torch.bool))[0]


def test_masks_of_several_sizes_are_not_decoded_together():
    small, large = (encode_masks(torch.ones(1, side, side, dtype=torch.bool))[0] for side in (3, 4))
    with pytest.raises(
        ValueError, match=r"a mask of \(4, 4\) \(H, W\) among those of \(3, 3\); decode each one separately"
    ):
        decode_masks([small, large])
    with pytest.raises(ValueError, match=r"a mask of \(3, 3\) .* among those of \(9, 9\)"):
        decode_masks([small], (9, 9))


@pytest.mark.parametrize("entries", [2, 3, 9])
def test_masks_from_profiles_are_those_of_their_pixels(entries):
    rng = np.random.default_rng(entries)
    for _ in range(60):
        height, width = rng.integers(1, 40, 2)
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        profiles = rng.choice([rng.normal(size=(w, entries)), rng.integers(-1, 2, (w, entries))]).astype(np.float32)
        place = np.sort(rng.uniform(0, entries - 1, h)).astype(np.float32)
        lower = np.minimum(place.astype(np.int64), entries - 2)
        part = place - lower
        before, behind = profiles[:, lower], profiles[:, lower + 1]
        whole = torch.zeros(1, height, width, dtype=torch.bool)
        whole[0, top : top + h, left : left + w] = torch.from_numpy(before + part * (behind - before) > 0).T
        rle = place_profiles(profiles, lower, part, 0.0, (top, left), (int(height), int(width)))
        assert [rle] == encode_masks(whole)


def test_masks_from_profiles_without_pixels_are_empty():
    nothing = encode_masks(torch.zeros(1, 3, 4, dtype=torch.bool))[0]
    for w, h in ((0, 3), (4, 0)):
        profiles, rows = np.ones((w, 2), np.float32), np.zeros(h, np.int64)
        assert place_profiles(profiles, rows, rows.astype(np.float32), 0.0, (0, 0), (3, 4)) == nothing
