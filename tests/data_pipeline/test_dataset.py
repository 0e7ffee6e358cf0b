import itertools
import pickle
import random

import numpy as np
import pytest
import torch
from mmengine.dataset import ConcatDataset, RepeatDataset, pseudo_collate
from torch.utils.data import DataLoader

from pe_spatial.common.errors import UnreadableFile
from pe_spatial.data import DenseDataset, Draw, DrawSampler, seeded


def batches(dataset, count, workers=0, skip=0, batch_size=3):
    sampler = DrawSampler(dataset, seed=5)
    sampler.skip(skip * batch_size)
    loader = DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate)
    return list(itertools.islice(loader, count))


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["inputs"], b["inputs"], strict=True))
        for x, y in zip(a["data_samples"], b["data_samples"], strict=True):
            assert x.img_id == y.img_id
            assert all(torch.equal(x.gt_instances[key], y.gt_instances[key]) for key in ("bboxes", "labels", "masks"))


def test_augmentation_does_not_depend_on_workers_or_on_resuming(noise_dataset):
    whole = batches(noise_dataset, 9)
    assert_same(whole, batches(noise_dataset, 9, workers=2))
    assert_same(whole[4:], batches(noise_dataset, 5, workers=2, skip=4))
    assert_same(whole[4:], batches(noise_dataset, 5, skip=4))


def test_augmentation_differs_between_draws(noise_dataset):
    sums = {int(noise_dataset[Draw(3, number, seed)]["inputs"].sum()) for number in range(4) for seed in (5, 6)}
    assert len(sums) == 8


def test_wrapped_datasets_are_seeded_by_the_draw_too(noise_dataset):
    size = len(noise_dataset)
    expected = noise_dataset[Draw(3, 17, 5)]["inputs"]
    for wrapper in (ConcatDataset([noise_dataset, noise_dataset]), RepeatDataset(noise_dataset, times=2)):
        assert torch.equal(wrapper[Draw(size + 3, 17, 5)]["inputs"], expected)


def test_plain_indices_use_the_global_generators(noise_dataset):
    torch.manual_seed(0)
    first = noise_dataset[3]["inputs"]
    torch.manual_seed(0)
    assert torch.equal(noise_dataset[3]["inputs"], first)


def test_seeding_is_undone():
    def numbers():
        return torch.rand(()).item(), np.random.uniform(), random.random()

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    expected = [numbers(), numbers()]
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    first = numbers()
    with seeded(1, 2):
        inside = numbers()
    with seeded(1, 2):
        assert numbers() == inside
    with seeded(1, 3):
        assert not set(numbers()) & set(inside)
    assert [first, numbers()] == expected


def with_a_bad_file(records, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    return [{**record, "img_path": str(bad)} if record["img_id"] in (2, 7) else record for record in records]


def test_an_unreadable_image_stops_training_by_default(noise_records, make_noise_dataset, noise_dataset, tmp_path):
    dataset = make_noise_dataset(with_a_bad_file(noise_records, tmp_path), pipeline=noise_dataset.pipeline.transforms)
    with pytest.raises(UnreadableFile, match="bad.png"):
        dataset[Draw(2, 0, 0)]
    # loader workers send it by name and message
    assert "bad.png" in str(pickle.loads(pickle.dumps(UnreadableFile("bad.png cannot be read"))))  # noqa: S301


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_and_counted(noise_records, make_noise_dataset, noise_dataset, tmp_path, workers):
    records = with_a_bad_file(noise_records, tmp_path)
    dataset = make_noise_dataset(records, pipeline=noise_dataset.pipeline.transforms, unreadable="skip")
    assert dataset.unreadable_indices == []
    loaded = batches(dataset, 8, workers)
    assert dataset.unreadable_indices == [2, 7]
    ids = [sample.img_id for batch in loaded for sample in batch["data_samples"]]
    assert len(ids) == 24
    assert not {2, 7} & set(ids)
    assert_same(loaded, batches(dataset, 8))


def test_evaluation_never_skips(noise_records, make_noise_dataset):
    with pytest.raises(ValueError, match="fewer images than the dataset has"):
        make_noise_dataset(noise_records, unreadable="skip", test_mode=True)
    with pytest.raises(ValueError, match="'ignore' is not one of raise, skip"):
        make_noise_dataset(noise_records, unreadable="ignore")


@pytest.mark.parametrize("serialize", [True, False])
def test_an_empty_dataset_is_an_error(make_noise_dataset, serialize):
    with pytest.raises(ValueError, match="NoiseImages is empty"):
        make_noise_dataset([], serialize_data=serialize)


def test_other_errors_are_never_skipped(noise_records, make_noise_dataset, noise_dataset):
    wrong = [{**noise_records[0], "height": 5}]
    dataset = make_noise_dataset(wrong, pipeline=noise_dataset.pipeline.transforms, unreadable="skip")
    with pytest.raises(ValueError, match="record says"):
        dataset[Draw(0, 0, 0)]


def test_subsets_work(noise_records, make_noise_dataset, noise_dataset):
    dataset = make_noise_dataset(noise_records, pipeline=noise_dataset.pipeline.transforms, indices=[4, 1])
    assert [dataset[row]["data_samples"].img_id for row in range(len(dataset))] == [4, 1]
    assert isinstance(dataset, DenseDataset)
