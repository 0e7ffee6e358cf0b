import pytest
import torch

from pe_spatial.tracking.label_tracker import LabelTracker
from pe_spatial.tracking.propagation import Propagation, unit

GRID, FRAME = (8, 20), (64, 160)
LEFT, RIGHT = (slice(16, 40), slice(16, 40)), (slice(16, 40), slice(80, 104))


def clip(frames, seed=0):
    """Tokens that keep their looks and move one column every second frame, with a little noise."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(*GRID, 16, generator=random)
    noise = 0.1 * torch.randn(frames, *GRID, 16, generator=random)
    return [unit(base.roll(number // 2, dims=1) + noise[number]) for number in range(frames)]


def mask_of(**places):
    mask = torch.zeros(FRAME, dtype=torch.int64)
    for number, (rows, columns) in places.items():
        mask[rows, columns] = int(number[1:])
    return mask


def run(tracker, features, masks):
    return [tracker.step(f, FRAME, FRAME, masks.get(number)) for number, f in enumerate(features)]


def tracker(topk=1):
    return LabelTracker(Propagation(radius=3, topk=topk), recent=3)


def test_two_objects_together_equal_two_objects_apart():
    features = clip(8)
    together = run(tracker(), features, {0: mask_of(_1=LEFT, _2=RIGHT)})
    first = run(tracker(), features, {0: mask_of(_1=LEFT)})
    second = run(tracker(), features, {0: mask_of(_2=RIGHT)})
    for both, one, other in zip(together, first, second, strict=True):
        assert (one > 0).any() and (other > 0).any()
        assert torch.equal(both, one + other)


def test_soft_labels_of_an_object_do_not_depend_on_others_even_where_they_compete():
    features, trackers = clip(6), [tracker(topk=5) for _ in range(2)]
    run(trackers[0], features, {0: mask_of(_1=(LEFT[0], slice(8, 48)), _2=(LEFT[0], slice(48, 88)))})
    run(trackers[1], features, {0: mask_of(_2=(LEFT[0], slice(48, 88)))})
    assert torch.equal(trackers[0].memory.labels[..., 1], trackers[1].memory.labels[..., 0])


def test_an_object_that_enters_late_is_tracked_as_if_the_video_began_there():
    features = clip(9)
    together = run(tracker(), features, {0: mask_of(_1=LEFT), 4: mask_of(_2=RIGHT)})
    early = run(tracker(), features, {0: mask_of(_1=LEFT)})
    late = run(tracker(), features[4:], {0: mask_of(_2=RIGHT)})
    for number, ids in enumerate(together):
        expected = early[number] if number < 4 else early[number] + late[number - 4]
        assert torch.equal(ids, expected)


def test_a_correction_replaces_the_object_and_leaves_the_others_alone():
    features = clip(9)
    masks = {0: mask_of(_1=LEFT, _2=RIGHT), 5: mask_of(_2=(RIGHT[0], slice(96, 120)))}
    expected, tracked = run(tracker(), features, {0: masks[0]}), tracker()
    run(tracked, features[:5], {0: masks[0]})
    # the tracker has gone astray: in its recent frames, object 2 covers everything
    tracked.memory.labels[:, :, [not slot.reference for slot in tracked.memory.slots], 1] = 1
    assert (tracked.step(features[5], FRAME, FRAME, masks[5]) == 2).equal(masks[5] == 2)
    for number in range(6, 9):
        ids = tracked.step(features[number], FRAME, FRAME)
        assert torch.equal(ids == 1, expected[number] == 1)
        assert ((ids == 2) & (expected[number] == 2)).sum() > 0.8 * (ids == 2).sum() > 0


def test_memory_is_bounded_whatever_is_corrected():
    tracked = tracker()
    for number, features in enumerate(clip(30)):
        tracked.step(features, FRAME, FRAME, mask_of(_1=LEFT, _2=RIGHT) if number % 4 == 0 else None)
    # the first, the latest correction, and three recent frames
    assert tracked.memory.keys.shape[2] == tracked.memory.labels.shape[2] == len(tracked.memory.slots) == 5
    assert sorted(slot.frame for slot in tracked.memory.slots if slot.reference) == [0, 28]


def test_state_goes_on_exactly_where_it_was_taken():
    features = clip(8)
    whole = run(tracker(), features, {0: mask_of(_1=LEFT, _2=RIGHT)})
    first, second = tracker(), tracker()
    run(first, features[:4], {0: mask_of(_1=LEFT, _2=RIGHT)})
    second.restore(first.state(), torch.device("cpu"))
    for number in range(4, 8):
        assert torch.equal(second.step(features[number], FRAME, FRAME), whole[number])


def test_an_object_smaller_than_a_token_is_not_lost():
    ids = run(tracker(), clip(3), {0: mask_of(_1=(slice(17, 19), slice(9, 11)))})
    assert (ids[1] == 1).any()


def test_frames_before_the_first_object_are_background():
    ids = run(tracker(), clip(4), {2: mask_of(_7=LEFT)})
    assert not ids[0].any() and not ids[1].any()
    assert set(ids[3].unique().tolist()) == {0, 7}


def test_no_recent_frames_means_the_first_one_alone():
    tracked = LabelTracker(Propagation(radius=3), recent=0)
    run(tracked, clip(5), {0: mask_of(_1=LEFT)})
    assert [slot.frame for slot in tracked.memory.slots] == [0]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(FRAME, dtype=torch.int64), "empty"),
        (torch.ones(10, 10, dtype=torch.int64), "resize the mask"),
        (torch.arange(64 * 160).view(FRAME), "at most 255"),
        (torch.ones(FRAME), "must be integers"),
    ],
)
def test_a_wrong_mask_is_refused_and_nothing_changes(mask, message):
    features, tracked = clip(3), tracker()
    with pytest.raises(ValueError, match=message):
        tracked.step(features[0], FRAME, FRAME, mask)
    assert tracked.frame == 0 and not tracked.ids
    assert tracked.step(features[0], FRAME, FRAME, mask_of(_1=LEFT)).any()


def test_a_frame_of_another_size_is_named():
    tracked = tracker()
    tracked.step(clip(1)[0], FRAME, FRAME, mask_of(_1=LEFT))
    with pytest.raises(ValueError, match=r"frame 1 is \(32, 32\)"):
        tracked.step(clip(1)[0], FRAME, (32, 32))
