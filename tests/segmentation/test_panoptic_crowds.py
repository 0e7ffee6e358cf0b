"""Panoptic quality where there are crowds, against panopticapi's rule written a second time, from files on disk."""

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from object_files import SIZE, box, instances, panoptic

from pe_spatial.segmentation import PanopticMetric
from pe_spatial.segmentation.mask_decoder.targets import segments_of_sample

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1},
    {"id": 5, "name": "dog", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 9, "name": "sand", "isthing": 0},
]


# --- the rule ---------------------------------------------------------------------------------------------------------
def count(counts, truth, true_segments, found, found_segments, forgive=lambda mine, theirs: mine == theirs):
    """Add one image to {category: [sum of IoUs, matches, false, missed]}: loops over segments, pixels counted directly.

    Args:
        truth, found: Maps of ids [H, W]; 0 in `truth` is void.
        true_segments, found_segments: Of the annotation file: `id`, `category_id` and, of the truth, `iscrowd`.
        forgive: Whether a prediction of the first category is forgiven on a crowd of the second.
    """
    void = truth == 0
    taken, matched = set(), set()
    for theirs in true_segments:
        for mine in found_segments:
            if theirs["iscrowd"] or theirs["category_id"] != mine["category_id"]:
                continue
            a, b = found == mine["id"], truth == theirs["id"]
            together = np.count_nonzero(a & b)
            union = np.count_nonzero(a) + np.count_nonzero(b) - together - np.count_nonzero(a & void)
            if together and together / union > 0.5:
                counts.setdefault(theirs["category_id"], [0.0, 0, 0, 0])
                counts[theirs["category_id"]][0] += together / union
                counts[theirs["category_id"]][1] += 1
                taken.add(theirs["id"])
                matched.add(mine["id"])
    for theirs in true_segments:
        if not theirs["iscrowd"] and theirs["id"] not in taken:
            counts.setdefault(theirs["category_id"], [0.0, 0, 0, 0])[3] += 1
    for mine in found_segments:
        if mine["id"] in matched:
            continue
        crowds = {s["category_id"]: s["id"] for s in true_segments if s["iscrowd"]}  # the last one of a category
        excused = void.copy()
        for category, number in crowds.items():
            if forgive(mine["category_id"], category):
                excused |= truth == number
        area = found == mine["id"]
        if np.count_nonzero(area & excused) / np.count_nonzero(area) <= 0.5:
            counts.setdefault(mine["category_id"], [0.0, 0, 0, 0])[2] += 1
    return counts


def quality(counts):
    """PQ, SQ and RQ in percent: means over the categories that occur."""
    rows = []
    for total, matches, false, missed in counts.values():
        divisor = matches + false / 2 + missed / 2
        rows.append((total / divisor, total / matches if matches else 0, matches / divisor))
    return [100 * sum(column) / len(rows) for column in zip(*rows, strict=True)]


# --- random maps ------------------------------------------------------------------------------------------------------
def random_scene(seed, categories=CATEGORIES):
    """Truth and prediction in blocks: things, two crowds of cats and one of dogs, a crowd of stuff, and void."""
    rng = np.random.default_rng(seed)
    kinds = [(3, 0), (3, 0), (5, 0), (7, 0), (9, 0), (3, 1), (3, 1), (5, 1), (9, 1)]
    segments = [
        {"id": int(number), "category_id": category, "iscrowd": crowd}
        for number, (category, crowd) in zip(rng.permutation(70000)[: len(kinds)] + 1, kinds, strict=True)
    ]
    rng.shuffle(segments)
    ids = np.array([0, *(segment["id"] for segment in segments)])
    truth = np.kron(ids[rng.integers(0, len(ids), (5, 6))], np.ones((4, 4), int))
    present = [segment for segment in segments if (truth == segment["id"]).any()]
    noisy = np.where(rng.random(truth.shape) < 0.2, rng.choice(ids, truth.shape), truth)
    renamed = {number: place for place, number in enumerate(ids[rng.permutation(len(ids))].tolist())}
    found = np.vectorize(renamed.get)(noisy)
    others = rng.choice([category["id"] for category in categories], len(segments)).tolist()
    predicted = [
        {"id": renamed[s["id"]], "category_id": s["category_id"] if rng.random() < 0.7 else other}
        for s, other in zip(segments, others, strict=True)
    ]
    return truth, present, found, [s for s in predicted if s["id"] and (found == s["id"]).any()]


def score(dataset, predictions):
    """PanopticMetric on the samples of a dataset and (map of ids, segments with `category_id`) of each."""
    metric = PanopticMetric()
    metric.dataset_meta = dataset.metainfo
    label_of = {category: label for label, category in enumerate(dataset.metainfo["category_ids"])}
    for number, (found, segments) in enumerate(predictions):
        sample = dataset[number]["data_samples"]
        known = {s["id"] for s in segments}
        ids = torch.from_numpy(np.where(np.isin(found, list(known)), found, 0)).int()
        sample.set_field(PixelData(data=ids[None]), "pred_panoptic", dtype=PixelData)
        sample.set_metainfo({"segments": [{"id": s["id"], "label": label_of[s["category_id"]]} for s in segments]})
        metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(len(predictions))
    return [scores[f"panoptic/{name}"] for name in ("PQ", "SQ", "RQ")]


def test_random_maps_equal_the_rule(tmp_path):
    scenes = [random_scene(seed) for seed in range(30)]
    dataset = panoptic(tmp_path, [(truth, segments) for truth, segments, *_ in scenes], CATEGORIES)
    together, crowds_are_void = {}, {}
    for scene in scenes:
        count(together, *scene)
        count(crowds_are_void, *scene, forgive=lambda mine, theirs: True)
    found = score(dataset, [scene[2:] for scene in scenes])
    assert found == pytest.approx(quality(together), abs=1e-9)
    assert abs(quality(crowds_are_void)[0] - found[0]) > 1  # the maps tell the rules apart


@pytest.mark.parametrize("seed", range(30))
def test_every_random_map_alone_equals_the_rule(tmp_path, seed):
    truth, segments, found, predicted = random_scene(seed)
    dataset = panoptic(tmp_path, [(truth, segments)], CATEGORIES)
    expected = quality(count({}, truth, segments, found, predicted))
    assert score(dataset, [(found, predicted)]) == pytest.approx(expected, abs=1e-9)


# --- by hand ----------------------------------------------------------------------------------------------------------
def row_of(dataset_folder, truth, segments, found, predicted):
    """PQ of one line of pixels, all of it in percent."""
    known = [{"id": number, "category_id": category, "iscrowd": crowd} for number, category, crowd in segments]
    dataset = panoptic(dataset_folder, [(np.array([truth]), known)], CATEGORIES)
    return score(dataset, [(np.array([found]), [{"id": n, "category_id": c} for n, c in predicted])])


SKY, CAT = (1, 7, 0), (2, 3, 0)


@pytest.mark.parametrize(
    ("category", "truth", "expected"),
    [
        (3, [1, 1, 1, 1, 8, 8, 8, 8], 100),  # a cat on a crowd of cats is forgiven
        (5, [1, 1, 1, 1, 8, 8, 8, 8], 50),  # a dog on it is not: sky 100, dog 0
        (3, [1, 1, 1, 1, 8, 8, 0, 0], 100),  # two of four pixels on the crowd and two in void: forgiven together
        (3, [1, 1, 1, 1, 8, 8, 9, 9], 50),  # half of it on the crowd is not more than half
        (3, [1, 1, 1, 1, 8, 8, 8, 9], 100),
    ],
)
def test_a_prediction_without_a_match_on_a_crowd(tmp_path, category, truth, expected):
    crowds = [(8, 3, 1), (9, 5, 1)]
    pq = row_of(tmp_path, truth, [SKY, *crowds], [1, 1, 1, 1, 2, 2, 2, 2], [(1, 7), (2, category)])[0]
    assert pq == pytest.approx(expected)


def test_a_crowd_stays_in_the_union_of_a_match_and_void_does_not(tmp_path):
    for name, truth, iou in (("crowd", [2, 2, 2, 8], 3 / 4), ("void", [2, 2, 2, 0], 1)):
        segments = [CAT, (8, 3, 1)] if name == "crowd" else [CAT]
        pq = row_of(tmp_path / name, truth, segments, [1, 1, 1, 1], [(1, 3)])[0]
        assert pq == pytest.approx(100 * iou)


@pytest.mark.parametrize(("found", "predicted"), [([1, 1, 0, 0], [(1, 7)]), ([1, 1, 2, 2], [(1, 7), (2, 9)])])
def test_a_crowd_cannot_be_missed_or_found(tmp_path, found, predicted):
    assert row_of(tmp_path, [1, 1, 8, 8], [SKY, (8, 9, 1)], found, predicted)[0] == pytest.approx(100)


def test_of_two_crowds_of_a_class_the_last_counts(tmp_path):
    """So does panopticapi, whose table of crowds has one entry for a category."""
    truth, found = [1, 1, 8, 8, 9], [1, 1, 2, 2, 2]
    for order, expected in (([8, 9], 50), ([9, 8], 100)):
        crowds = [(number, 3, 1) for number in order]
        pq = row_of(tmp_path / str(order[0]), truth, [SKY, *crowds], found, [(1, 7), (2, 3)])[0]
        assert pq == pytest.approx(expected)


# --- instances that are painted ---------------------------------------------------------------------------------------
def painted(objects):
    """A map of ids and its segments: crowds lie under everything, then the larger under the smaller; 1: background."""
    ids = np.ones(SIZE, int)
    segments = [{"id": 1, "category_id": 1, "iscrowd": 0}]
    numbered = list(enumerate(objects, start=2))
    for number, (_, mask, _) in sorted(numbered, key=lambda each: (not each[1][2], -each[1][1].sum())):
        ids[mask] = number
    for number, (category, _, crowd) in numbered:
        if (ids == number).any():
            segments.append({"id": number, "category_id": category, "iscrowd": int(crowd)})
    return ids, segments


@pytest.mark.parametrize("seed", range(6))
def test_painted_instances_equal_the_rule(tmp_path, seed):
    rng = np.random.default_rng(seed)
    objects = []
    for category, crowd in ((2, False), (5, False), (2, True), (5, True), (2, False), (2, True)):
        x, y = rng.integers(0, 10), rng.integers(0, 7)
        objects.append((category, box(x, y, x + rng.integers(3, 12), y + rng.integers(3, 9)), crowd))
    dataset = instances(tmp_path, objects, load={"instances": True})
    truth, segments = painted(objects)
    found = np.where(rng.random(SIZE) < 0.15, np.roll(truth, 1), truth)
    predicted = [
        {"id": s["id"], "category_id": s["category_id"] if rng.random() < 0.7 else int(rng.choice([2, 5]))}
        for s in segments
        if (found == s["id"]).any()
    ]
    expected = quality(count({}, truth, segments, found, predicted))
    assert score(dataset, [(found, predicted)]) == pytest.approx(expected, abs=1e-9)


# --- what is trained is what is scored --------------------------------------------------------------------------------
def test_a_crowd_is_known_and_belongs_to_no_segment(tmp_path):
    """A mask that reaches into a crowd loses IoU, so the loss must see its pixels; void is not seen by either."""
    truth, segments, *_ = random_scene(3)
    sample = panoptic(tmp_path, [(truth, segments)], CATEGORIES)[0]["data_samples"]
    targets = segments_of_sample(sample, truth.shape, {0, 1})
    crowd = np.isin(truth, [s["id"] for s in segments if s["iscrowd"]])
    assert crowd.any() and (targets.valid.numpy() == (truth != 0)).all()
    assert not targets.masks.numpy()[:, crowd].any()
    owned = targets.masks.numpy().sum(0)
    assert (owned == ((truth != 0) & ~crowd)).all()  # every other pixel has one owner


def test_a_model_of_classes_alone_takes_a_crowd_for_area_of_its_class(tmp_path):
    truth, segments, *_ = random_scene(3)
    sample = panoptic(tmp_path, [(truth, segments)], CATEGORIES)[0]["data_samples"]
    targets = segments_of_sample(sample, truth.shape, ())
    assert (targets.masks.numpy().sum(0) == (truth != 0)).all()
