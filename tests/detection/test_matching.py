"""Which detections are right, by hand and at the ends; confusions; the score threshold; best and worst images."""

import numpy as np
import pytest

from pe_spatial.detection.matching import Judged, best_threshold, confusion, f1_score

A, B, C, D = ([0, 0, 10, 10], [40, 0, 10, 10], [0, 40, 10, 10], [40, 40, 10, 10])


def judged(truth, found, crowds=(), unjudged=()):
    """Truth: (box, label), found: (box, label, score), crowds: (box, label)."""

    def columns(rows):
        boxes = np.array([row[0] for row in rows], float).reshape(-1, 4)
        return boxes, *(np.array([row[place] for row in rows]) for place in range(1, len(rows[0]) if rows else 2))

    scores = () if found else (np.array([]),)
    return Judged(*columns(truth), *columns(found), *scores, *columns(crowds), unjudged=unjudged)


def test_perfect_detections_are_all_right_and_lie_on_the_diagonal():
    image = judged([(A, 0), (B, 1), (C, 1)], [(C, 1, 0.9), (A, 0, 0.8), (B, 1, 0.7)])
    assert image.counts(0.5) == (3, 0, 0) and image.f1(0.5) == 1
    assert image.object_of.tolist() == [2, 0, 1]
    assert np.array_equal(confusion([image], 2, 0.5), np.diag([1, 2, 0]))


def test_a_case_by_hand():
    """A is found twice, B is taken for class 1, C is missed, and D is invented."""
    found = [(A, 0, 0.6), (A, 0, 0.9), (B, 1, 0.8), (D, 1, 0.7)]
    image = judged([(A, 0), (B, 0), (C, 1)], found)
    assert image.object_of.tolist() == [-1, 0, -1, -1]  # the greater score takes it
    assert image.counts(0.5) == (1, 3, 2)
    assert image.f1(0.5) == pytest.approx(2 / 7)
    assert list(image.confused(0.5)) == [(2, 1)]
    expected = [[1, 1, 0], [0, 0, 1], [1, 1, 0]]  # the last: a second A of class 0, D of class 1
    assert confusion([image], 2, 0.5).tolist() == expected
    assert image.counts(0.85) == (1, 0, 2)
    assert confusion([image], 2, 0.85).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(("shift", "right"), [(3, 1), (4, 0)])
def test_an_iou_of_one_half_is_the_bound(shift, right):
    image = judged([(A, 0)], [([shift, 0, 10, 10], 0, 0.9)])  # 7 / 13 and 6 / 14
    assert image.counts(0.5)[0] == right


def test_crowds_and_classes_of_which_not_all_is_annotated_are_not_judged():
    found = [(A, 0, 0.9), (A, 1, 0.9), (B, 2, 0.9)]
    image = judged([], found, crowds=[([0, 0, 30, 30], 0)], unjudged={2})
    assert image.is_judged.tolist() == [False, True, False]
    assert image.counts(0.5) == (0, 1, 0)
    assert confusion([image], 3, 0.5).sum() == 1


def test_nothing_to_find_and_nothing_found_is_not_ranked():
    empty = judged([], [])
    assert empty.counts(0.5) == (0, 0, 0) and np.isnan(empty.f1(0.5)) and np.isnan(f1_score(0, 0, 0))
    assert confusion([empty], 2, 0.5).sum() == 0
    missed = judged([(A, 0)], [])
    assert missed.f1(0.5) == 0 and confusion([missed], 1, 0.5).tolist() == [[0, 1], [0, 0]]


def test_the_threshold_leaves_out_what_is_mostly_wrong():
    image = judged([(A, 0), (B, 0)], [(A, 0, 0.9), (B, 0, 0.42), (C, 0, 0.3), (D, 0, 0.3)])
    assert best_threshold([image]) == 0.35  # the lowest multiple of 0.05 above 0.3
    assert best_threshold([judged([(A, 0)], [(C, 0, 0.9)])]) == 0.5


def test_counts_add_up_whatever_the_detections():
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = [[*rng.integers(0, 30, 2), *rng.integers(5, 25, 2)] for _ in range(9)]
        truth = [(box, rng.integers(3)) for box in boxes[:4]]
        found = [(box, rng.integers(3), rng.random()) for box in boxes[2:]]
        image = judged(truth, found)
        right, false, missed = image.counts(0.3)
        counts = confusion([image], 3, 0.3)
        assert np.trace(counts[:3, :3]) == right and right + missed == counts[:3].sum() == 4
        assert counts[:, :3].sum() == right + false == sum(row[2] >= 0.3 for row in found)
