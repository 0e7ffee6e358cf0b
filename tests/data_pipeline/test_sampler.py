import itertools
import pickle

import pytest
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from pe_spatial.data import Draw, DrawSampler


def rows(count):
    return list(range(count))


def take(sampler, count):
    return list(itertools.islice(sampler, count))


def sampler_of(monkeypatch, rank, world, **options):
    monkeypatch.setattr("pe_spatial.data.sampler.get_dist_info", lambda: (rank, world))
    return DrawSampler(rows(10), seed=3, **options)


class WithRepeats(DrawSampler):
    """Epochs of different lengths, as repeat-factor sampling makes them."""

    def epoch_indices(self, epoch):
        return super().epoch_indices(epoch)[: 4 + epoch % 3]


def test_a_draw_is_an_index_that_survives_pickling():
    draw = pickle.loads(pickle.dumps(Draw(4, 17, 3)))  # noqa: S301
    assert isinstance(draw, Draw)
    assert rows(10)[draw] == 4
    assert (draw.number, draw.seed) == (17, 3)


def test_every_epoch_is_another_permutation():
    draws = take(DrawSampler(rows(10), seed=3), 30)
    epochs = [[int(draw) for draw in draws[start : start + 10]] for start in (0, 10, 20)]
    assert all(sorted(epoch) == rows(10) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [draw.number for draw in draws] == rows(30)


def test_the_stream_is_a_function_of_the_seed():
    assert take(DrawSampler(rows(10), seed=3), 25) == take(DrawSampler(rows(10), seed=3), 25)
    assert take(DrawSampler(rows(10), seed=3), 10) != take(DrawSampler(rows(10), seed=4), 10)
    # neighboring seeds are not one stream, shifted by an epoch
    assert take(DrawSampler(rows(10), seed=3), 20)[10:] != take(DrawSampler(rows(10), seed=4), 10)


def test_without_shuffling_rows_come_in_order():
    assert take(DrawSampler(rows(4), seed=0, shuffle=False), 6) == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("kind", [DrawSampler, WithRepeats])
@pytest.mark.parametrize("skipped", [0, 1, 7, 40])
def test_skipping_equals_dropping(kind, skipped):
    whole = take(kind(rows(10), seed=3), skipped + 15)
    resumed = kind(rows(10), seed=3)
    resumed.skip(skipped)
    for _ in range(2):  # each iteration starts there
        again = take(resumed, 15)
        assert again == whole[skipped:]
        assert [draw.number for draw in again] == [draw.number for draw in whole[skipped:]]


def test_two_ranks_consume_what_one_does(monkeypatch):
    whole = take(sampler_of(monkeypatch, 0, 1), 60)
    halves = [take(sampler_of(monkeypatch, rank, 2), 30) for rank in range(2)]
    for start in range(0, 30, 3):  # iterations of 3 samples on each of two ranks, against 6 on one
        ours = {draw.number: int(draw) for half in halves for draw in half[start : start + 3]}
        assert ours == {draw.number: int(draw) for draw in whole[2 * start : 2 * start + 6]}


def test_ranks_skip_their_own_share(monkeypatch):
    whole = take(sampler_of(monkeypatch, 1, 3), 20)
    resumed = sampler_of(monkeypatch, 1, 3)
    resumed.skip(7)
    assert take(resumed, 13) == whole[7:]
    assert len(resumed) == 4  # 10 rows, 3 ranks


@pytest.mark.parametrize("workers", [0, 2])
def test_mmengine_resumes_it_without_loading(workers):
    sampler = DrawSampler(rows(10), seed=3)

    def loader():
        return DataLoader(rows(10), batch_size=3, sampler=DrawSampler(rows(10), seed=3), num_workers=workers)

    resumed = _InfiniteDataloaderIterator(loader())
    resumed.skip_iter(5)
    assert resumed._iterator is None  # not a batch was fetched
    assert next(resumed).tolist() == take(sampler, 18)[15:]


def test_it_is_built_by_name_with_the_runners_arguments():
    sampler = DATA_SAMPLERS.build({"type": "DrawSampler"}, default_args={"dataset": rows(10), "seed": 3})
    assert take(sampler, 5) == take(DrawSampler(rows(10), seed=3), 5)
    # without a seed all ranks agree on a random one
    assert DATA_SAMPLERS.build({"type": "DrawSampler"}, default_args={"dataset": rows(10), "seed": None}).seed >= 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="dataset is empty"):
        DrawSampler([], seed=0)
    with pytest.raises(ValueError, match="-1 is negative"):
        DrawSampler(rows(3), seed=0).skip(-1)
