import json
import os
import signal

import numpy as np
import pytest
import torch
from children import CONTEXT
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from pe_spatial.alignment.cache import CacheError, TeacherCache, create_cache
from pe_spatial.alignment.loading import LoadTeacherMap
from pe_spatial.alignment.map_codec import MapCodec, added_error, principal_channels
from pe_spatial.common.errors import UnreadableFile
from pe_spatial.data import DenseDataset, ImageFolder, PackSample

GRID, CHANNELS = (4, 6), 24
TEACHER = {"teacher": "of this test", "weights_sha256": "00"}
IMAGES = [(f"{number}.png", 100 + number) for number in range(7)]


def features(row, channels=CHANNELS):
    return torch.randn(channels, *GRID, generator=torch.Generator().manual_seed(row)) * 5 - 3


def cosines(maps):
    tokens = F.normalize(maps.flatten(1).double(), dim=0)
    return tokens.T @ tokens


def begin(folder, identities=IMAGES, rank=None, teacher=TEACHER):
    return create_cache(folder, teacher, GRID, identities, MapCodec(rank), shard_images=3)


def fill(cache, maps=features):
    return [row for number in cache.missing() for row in cache.fill(number, maps)]


@pytest.fixture
def cache(tmp_path):
    made = begin(tmp_path / "cache")
    fill(made)
    return made


# --- coding -----------------------------------------------------------------------------------------------------------
def test_a_code_is_off_by_half_a_step_of_its_channel_at_most():
    maps = features(0)
    record = MapCodec().encode(maps)
    assert record["codes"].dtype == torch.int8
    torch.testing.assert_close(record["lengths"], maps.norm(dim=0))
    unit = maps / maps.norm(dim=0)
    steps = unit.abs().amax((1, 2))[:, None, None] / 127
    assert ((MapCodec.decode(record) / record["lengths"] - unit).abs() <= 0.501 * steps).all()


def test_a_short_vector_keeps_its_direction_beside_long_ones():
    maps = features(0)
    maps[:, 1, 2] *= 1e-4
    decoded = MapCodec.decode(MapCodec().encode(maps))
    assert float(torch.cosine_similarity(decoded[:, 1, 2], maps[:, 1, 2], dim=0)) > 0.9995


def test_all_principal_channels_have_the_cosines_of_the_map_and_more_are_zeros():
    maps = features(1)
    kept = principal_channels(maps, 24)
    torch.testing.assert_close(cosines(kept), cosines(maps), atol=1e-6, rtol=0)
    assert (kept.flatten(1).norm(dim=1).diff() <= 1e-4).all()  # the strongest first
    assert not principal_channels(maps, 30)[24:].any()


def test_masks_of_few_segments_need_few_channels():
    segments = torch.randint(0, 5, (24,), generator=torch.Generator().manual_seed(0))
    maps = torch.where(segments[:, None] == segments, 8.0, -12.0).view(24, *GRID)
    decoded = MapCodec.decode(MapCodec(rank=5).encode(maps))
    assert decoded.shape == (5, *GRID)
    assert added_error(maps, decoded)[1] < 1e-3
    assert added_error(maps, MapCodec.decode(MapCodec(rank=2).encode(maps)))[1] > 0.2


def test_the_added_error_is_that_of_the_matrix_that_the_loss_compares_with():
    one, other = features(2), features(3)
    difference = (((cosines(one) - 1) * 20).exp() - ((cosines(other) - 1) * 20).exp()).abs()
    mean, largest = added_error(one, other)
    assert mean == pytest.approx(float(difference.mean()), rel=1e-3)
    assert largest == pytest.approx(float(difference.max()), rel=1e-3)
    assert added_error(one, one) == (0, 0)
    shuffled = one[torch.randperm(CHANNELS)] * 3  # the order of the prompts and the scale say nothing
    assert added_error(one, shuffled)[1] < 1e-4


def test_blank_and_broken_maps():
    zeros = torch.zeros(CHANNELS, *GRID)
    assert torch.equal(MapCodec.decode(MapCodec().encode(zeros)), zeros)
    assert torch.equal(MapCodec.decode(MapCodec(3).encode(zeros)), zeros[:3])
    with pytest.raises(ValueError, match="NaN"):
        MapCodec().encode(torch.full((CHANNELS, *GRID), torch.nan))
    with pytest.raises(ValueError, match="rank 0"):
        MapCodec(0)


# --- the cache --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rank", [None, 8])
def test_what_was_cached_is_read_back(tmp_path, rank):
    made = begin(tmp_path, rank=rank)
    assert fill(made) == list(range(7))
    opened = TeacherCache(tmp_path)
    opened.check_complete()
    assert opened.damaged(thorough=True) == {}
    for row in (6, 0, 3):
        expected = MapCodec.decode(MapCodec(rank).encode(features(row)))
        assert torch.equal(opened.read(row), expected)
    assert opened.errors()[4].tolist() == pytest.approx(
        added_error(features(4), MapCodec.decode(MapCodec(rank).encode(features(4)))), rel=1e-5
    )
    with pytest.raises(IndexError, match="image 7"):
        opened.read(7)


def test_a_map_takes_a_byte_a_value_and_four_a_channel_and_a_token(cache, tmp_path):
    tokens = GRID[0] * GRID[1]
    assert 0 < cache.path(0).stat().st_size - 3 * (CHANNELS * tokens + 4 * CHANNELS + 4 * tokens + 16) < 600
    ranked = begin(tmp_path / "ranked", rank=8)
    fill(ranked)
    assert 0 < ranked.path(0).stat().st_size - 3 * (2 * 8 * tokens + 4 * 8 + 4 * tokens + 16) < 600


def test_only_what_is_missing_is_computed(cache):
    kept = cache.path(2).read_bytes()
    cache.path(1).unlink()
    with pytest.raises(CacheError, match=r"1 of 3 shards are missing, the first is maps-000001"):
        cache.check_complete()
    with pytest.raises(CacheError, match="maps-000001.safetensors is missing"):
        cache.read(4)
    assert fill(begin(cache.folder)) == [3, 4, 5]
    assert cache.path(2).read_bytes() == kept


def killed(folder, row):
    def maps(number):
        if number == row:
            os.kill(os.getpid(), signal.SIGKILL)
        return features(number)

    fill(begin(folder), maps)


@pytest.mark.parametrize(("row", "finished"), [(0, 0), (4, 1)])
def test_a_kill_costs_no_finished_shard(tmp_path, row, finished):
    process = CONTEXT.Process(target=killed, args=(tmp_path / "cache", row))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    begun = begin(tmp_path / "cache")
    assert fill(begun) == list(range(3 * finished, 7))
    begun.check_complete()
    fill(begin(tmp_path / "whole"))
    for path in (tmp_path / "whole").glob("*"):
        assert path.read_bytes() == (tmp_path / "cache" / path.name).read_bytes()


def test_an_image_that_cannot_be_read_leaves_a_gap(tmp_path):
    made = begin(tmp_path)
    fill(made, lambda row: None if row == 4 else features(row))
    with pytest.raises(UnreadableFile, match="image 4"):
        made.read(4)
    assert torch.equal(made.read(5), MapCodec.decode(MapCodec().encode(features(5))))
    assert len(made.errors()) == 6


# --- what does not belong ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("identities", "message"),
    [
        (IMAGES[:5], "the cache has 7 images, the list 5"),
        (
            [*IMAGES[:3], ("3.png", 99), *IMAGES[4:]],
            r"image 3 is 3\.png \(103 bytes\) in the cache and 3\.png \(99 bytes",
        ),
        (IMAGES[::-1], r"image 0 is 0\.png"),
    ],
)
def test_another_list_of_images_is_refused(cache, identities, message):
    cache.check_images(IMAGES)
    with pytest.raises(CacheError, match=message):
        cache.check_images(identities)
    with pytest.raises(CacheError, match=message):
        begin(cache.folder, identities)


def test_names_may_be_of_any_bytes(tmp_path):
    odd = [("a\u2028b\n.png", 1), (os.fsdecode(b"\xff.png"), 2)]
    made = begin(tmp_path, odd)
    made.check_images(odd)
    with pytest.raises(CacheError, match="image 1 is"):
        made.check_images([odd[0], ("other.png", 2)])


def test_another_teacher_and_other_settings_are_refused(cache):
    with pytest.raises(CacheError, match=r"teacher\.weights_sha256: '00' → '11'"):
        begin(cache.folder, teacher={**TEACHER, "weights_sha256": "11"})
    with pytest.raises(CacheError, match=r"codec\.rank: None → 8"):
        begin(cache.folder, rank=8)


def test_a_shard_of_another_cache_is_refused(cache, tmp_path):
    other = begin(tmp_path / "other", teacher={"teacher": "another"})
    fill(other)
    os.replace(other.path(1), cache.path(1))
    with pytest.raises(CacheError, match="maps-000001.*belongs to another cache"):
        cache.read(3)
    os.replace(cache.path(0), cache.path(1))
    with pytest.raises(CacheError, match="maps-000001.*another shard under this name"):
        cache.read(3)


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(CacheError, match="not a teacher cache"):
        TeacherCache(tmp_path)
    (tmp_path / "cache.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(CacheError, match="version 99"):
        TeacherCache(tmp_path)


@pytest.mark.parametrize("length", [0, 300, -1])
def test_a_truncated_shard_is_named_and_computed_again(cache, length):
    whole = cache.path(1).read_bytes()
    cache.path(1).write_bytes(whole[:length])
    with pytest.raises(CacheError, match=r"maps-000001\.safetensors is damaged.*--repair"):
        cache.check_complete()
    with pytest.raises(CacheError, match=r"maps-000001\.safetensors is damaged"):
        cache.read(3)
    assert list(cache.damaged()) == [1]
    cache.path(1).unlink()
    fill(cache)
    assert cache.path(1).read_bytes() == whole


@pytest.mark.parametrize("part", ["codes", "scales", "lengths", "checksums"])
def test_a_flipped_bit_is_found_when_its_image_is_read(cache, part):
    tensors = load_file(cache.path(1))
    tensors[part].view(torch.uint8).flatten()[-1] ^= 4
    save_file(tensors, cache.path(1), {"shard": f"{cache.fingerprint} 1"})
    cache.check_complete()
    cache.read(3)
    with pytest.raises(CacheError, match="maps-000001.*checksum of image 5 is wrong"):
        cache.read(5)
    assert list(cache.damaged(thorough=True)) == [1]


# --- in a pipeline ----------------------------------------------------------------------------------------------------
@pytest.fixture
def photos(tmp_path):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    made = begin(tmp_path / "maps", ImageFolder(tmp_path / "photos").identities())
    fill(made)
    return tmp_path


def dataset(photos, *steps):
    pipeline = [{"type": "LoadImage"}, {"type": "LoadTeacherMap", "cache": str(photos / "maps")}, *steps, PackSample()]
    return ImageFolder(photos / "photos", pipeline=pipeline)


def test_the_map_stands_beside_its_image(photos):
    sample = dataset(photos)[2]["data_samples"]
    assert torch.equal(sample.mask_logits.data, TeacherCache(photos / "maps").read(2))
    assert type(sample.mask_logits.data) is torch.Tensor


def test_a_flip_moves_the_map_and_permutes_the_cosines(photos):
    flip = {"type": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 1.0}
    maps, flipped = (dataset(photos, *steps)[0]["data_samples"].mask_logits.data for steps in ([], [flip]))
    assert torch.equal(flipped, maps.flip(-1))
    order = torch.arange(24).view(GRID).flip(-1).flatten()
    torch.testing.assert_close(cosines(flipped), cosines(maps)[order][:, order])
    # a teacher that sees the flipped image numbers its prompts anew, and learns the same
    torch.testing.assert_close(cosines(flipped[order]), cosines(flipped))


def test_a_crop_on_the_borders_of_tokens_takes_their_vectors(photos):
    halves = [
        {"type": "FixedSizeCrop", "size": [20, 60]},
        {"type": "torchvision.transforms.v2.Resize", "size": [40, 60]},
    ]
    torch.manual_seed(0)
    packed = dataset(photos, *halves)[1]
    whole, cropped = TeacherCache(photos / "maps").read(1), packed["data_samples"].mask_logits.data
    assert cropped.shape == whole.shape
    pixels = dataset(photos)[1]["inputs"]
    top = next(y for y in range(21) if torch.equal(pixels[:, y : y + 20][:, ::19], packed["inputs"][:, ::39]))
    # the centers of the four rows of tokens of the crop, in rows of the whole map
    places = (top + 20 * (torch.arange(4) + 0.5) / 4) / 40 * 4 - 0.5
    low = places.clamp(0, 3).floor().long()
    weight = (places.clamp(0, 3) - low)[:, None]
    expected = whole[:, low] * (1 - weight) + whole[:, (low + 1).clamp(max=3)] * weight
    torch.testing.assert_close(cropped, expected, atol=1e-4, rtol=1e-4)


def test_a_part_of_the_list_keeps_its_rows(photos):
    part = ImageFolder(
        photos / "photos",
        indices=[2],
        pipeline=[{"type": "LoadImage"}, {"type": "LoadTeacherMap", "cache": str(photos / "maps")}, PackSample()],
    )
    assert torch.equal(part[0]["data_samples"].mask_logits.data, TeacherCache(photos / "maps").read(2))


def test_a_data_set_that_the_cache_is_not_of_is_refused_at_once(photos):
    (photos / "photos" / "9.png").write_bytes((photos / "photos" / "1.png").read_bytes())
    with pytest.raises(CacheError, match="the cache has 3 images, the list 4"):
        dataset(photos)

    class Other(DenseDataset):
        def load_data_list(self):
            return [{"img_path": "a.png", "img_id": 0}]

    with pytest.raises(CacheError, match="use ImageFolder or TarImages"):
        Other(pipeline=[LoadTeacherMap(str(photos / "maps"))])
    with pytest.raises(ValueError, match="directly after LoadImage"):
        LoadTeacherMap(str(photos / "maps"))({"img": torch.zeros(3, 20, 30), "ori_shape": (40, 60), "img_id": 0})
