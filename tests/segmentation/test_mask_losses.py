"""Points, matching, targets and the criterion of the mask decoder."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from pe_spatial.segmentation.mask_decoder import MaskCriterion, Masks, StagedWarmupPolyLR
from pe_spatial.segmentation.mask_decoder.matcher import Weights, match
from pe_spatial.segmentation.mask_decoder.points import read_points, uncertain_points
from pe_spatial.segmentation.mask_decoder.targets import Segments, segments_of, segments_of_sample


# --- points -----------------------------------------------------------------------------------------------------------
def test_a_point_at_the_center_of_a_pixel_reads_it():
    maps = torch.randn(2, 4, 6)
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    points = torch.stack([(columns + 0.5) / 6, (rows + 0.5) / 4], dim=-1).flatten(0, 1).expand(2, -1, -1)
    torch.testing.assert_close(read_points(maps, points), maps.flatten(1))


def test_maps_of_two_resolutions_are_read_at_the_same_places():
    small = torch.zeros(1, 4, 4)
    small[:, :, 2:] = 1
    large = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    points = torch.rand(1, 200, 2)
    points = points[:, ((points[0, :, 0] - 0.5).abs() > 0.13)]  # away from the edge between the two halves
    torch.testing.assert_close(read_points(small, points), read_points(large, points))


def test_uncertain_points_crowd_where_a_mask_is_undecided():
    logits = torch.linspace(-10, 10, 40).expand(3, 40, 40)  # undecided in the middle columns
    distance = (uncertain_points(logits, 400, 3.0, 0.75)[..., 0] - 0.5).abs()
    even = (uncertain_points(logits, 400, 3.0, 0.0)[..., 0] - 0.5).abs()
    assert (distance < 0.15).float().mean() > 0.7 and (even < 0.15).float().mean() < 0.4


# --- matching ---------------------------------------------------------------------------------------------------------
def test_the_assignment_is_the_cheapest_of_all():
    torch.manual_seed(0)
    weights = Weights(5.0, 5.0, 2.0)
    logits, class_logits = torch.randn(4, 50), torch.randn(4, 4)
    masks, labels, real = (torch.rand(3, 50) > 0.5).float(), torch.tensor([0, 2, 1]), torch.ones(50)

    def cost(query, truth):
        probability = logits[query].sigmoid()
        entropy = torch.nn.functional.binary_cross_entropy(probability, masks[truth])
        dice = 1 - (2 * (probability * masks[truth]).sum() + 1) / (probability.sum() + masks[truth].sum() + 1)
        return 5 * entropy + 5 * dice - 2 * class_logits[query].softmax(0)[labels[truth]]

    best = min(itertools.permutations(range(4), 3), key=lambda rows: sum(cost(q, t) for t, q in enumerate(rows)))
    found = match(logits, class_logits, masks, labels, real, weights)
    assert {(int(q), int(t)) for q, t in zip(*found, strict=True)} == {(q, t) for t, q in enumerate(best)}


def test_a_diverged_model_is_matched_all_the_same():
    bad = torch.full((3, 10), torch.nan)
    found = match(bad, bad[:, :3], torch.ones(2, 10), torch.tensor([0, 1]), torch.ones(10), Weights(1, 1, 1))
    assert len(found.queries) == 2


# --- targets ----------------------------------------------------------------------------------------------------------
def test_a_label_map_alone_is_one_segment_per_class():
    labels = torch.tensor([[0, 0, 3], [3, 255, 3]])
    found = segments_of((2, 3), things={3}, sem_seg=labels)
    assert found.labels.tolist() == [0, 3]
    assert torch.equal(found.masks, torch.stack([labels == 0, labels == 3]))
    assert torch.equal(found.valid, labels != 255)


def test_objects_replace_the_area_of_their_class_and_crowds_belong_to_none():
    labels = torch.tensor([[0, 2, 2, 2], [0, 0, 1, 2]])
    masks = torch.zeros(3, 2, 4, dtype=torch.bool)
    masks[0, 0, 1] = masks[1, 0, 2] = True  # the third is not visible
    crowd = torch.zeros(1, 2, 4, dtype=torch.bool)
    crowd[0, :, 3] = True
    found = segments_of((2, 4), {2}, labels, (torch.tensor([2, 2, 2]), masks), (torch.tensor([2]), crowd))
    assert found.labels.tolist() == [0, 1, 2, 2]
    assert torch.equal(found.masks[2:], masks[:2])
    assert found.valid.all() and not found.masks[:, crowd[0]].any()


def test_a_crowd_of_stuff_is_no_part_of_its_class():
    labels, crowd = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[False, True, True, True]]])
    found = segments_of((1, 4), (), labels, crowds=(torch.tensor([1]), crowd))
    assert found.labels.tolist() == [0] and found.masks.sum() == 2  # of 0, the crowd lies underneath


def test_without_things_objects_do_not_matter():
    labels = torch.tensor([[0, 2, 2]])
    masks = torch.tensor([[[False, True, False]], [[False, False, True]]])
    found = segments_of((1, 3), (), labels, (torch.tensor([2, 2]), masks))
    assert found.labels.tolist() == [0, 2]


def test_objects_alone_and_nothing_at_all():
    masks = torch.eye(3, dtype=torch.bool)[None]
    found = segments_of((3, 3), {0}, instances=(torch.tensor([0]), masks))
    assert found.labels.tolist() == [0] and found.valid.all()
    with pytest.raises(ValueError, match="load one of them"):
        segments_of((3, 3), {0})


def test_padding_is_unknown():
    sample = BaseDataElement(metainfo={"img_shape": (2, 3)})
    labels = torch.nn.functional.pad(torch.zeros(1, 2, 3, dtype=torch.int64), (0, 1, 0, 2), value=255)
    sample.set_field(PixelData(data=labels), "gt_sem_seg", dtype=PixelData)
    sample.gt_instances = InstanceData(labels=torch.tensor([1]), masks=torch.ones(1, 2, 3, dtype=torch.bool))
    found = segments_of_sample(sample, (4, 4), {1})
    assert found.masks.shape == (2, 4, 4) and found.valid.sum() == 6
    assert not found.masks[:, ~found.valid].any()


# --- criterion --------------------------------------------------------------------------------------------------------
def truth(size=(16, 16)):
    labels = torch.zeros(size, dtype=torch.int64)
    labels[8:] = 1
    labels[:, :4] = 2
    return segments_of(size, (), labels)


def perfect(found, queries=5, num_classes=3, sharpness=100.0):
    """What a perfect model says; the queries beyond the segments say that there is no object."""
    masks = torch.zeros(queries, *found.masks.shape[1:], dtype=torch.bool)
    masks[: len(found.masks)] = found.masks
    target = torch.full((queries,), num_classes)
    target[: len(found.labels)] = found.labels
    class_logits = torch.nn.functional.one_hot(target, num_classes + 1) * sharpness
    order = torch.randperm(queries)
    return Masks((masks.float() * 2 - 1)[order][None] * sharpness, class_logits.float()[order][None])


def test_the_loss_of_a_perfect_model_vanishes():
    """Exactly for a mask without an edge; at an edge points between two pixels are half inside."""
    torch.manual_seed(0)
    criterion = MaskCriterion(points=512)
    whole = segments_of((16, 16), (), torch.full((16, 16), 2))
    assert all(loss < 1e-6 for loss in criterion([perfect(whole)], [whole]).values())
    good = criterion([perfect(truth())], [truth()])
    wrong = criterion([perfect(truth(), sharpness=-100.0)], [truth()])
    assert good["loss_class"] < 1e-6
    assert sum(wrong.values()) > 5 * sum(good.values())


def test_several_answers_add_up():
    criterion, answer = MaskCriterion(points=64), perfect(truth(), sharpness=1.0)
    torch.manual_seed(0)
    once = criterion([answer], [truth()])
    torch.manual_seed(0)
    first_of_two = criterion([answer, perfect(truth(), sharpness=100.0)], [truth()])
    assert first_of_two["loss_class"] == pytest.approx(float(once["loss_class"]), abs=1e-4)
    assert all(first_of_two[name] >= once[name] for name in once)


def test_an_image_without_segments_has_a_finite_loss_that_reaches_everything():
    empty = Segments(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool), torch.ones(8, 8).bool())
    logits, class_logits = torch.randn(1, 3, 4, 4, requires_grad=True), torch.randn(1, 3, 4, requires_grad=True)
    losses = MaskCriterion(points=16)([Masks(logits, class_logits)], [empty])
    assert losses["loss_mask"] == losses["loss_dice"] == 0 and losses["loss_class"] > 0
    sum(losses.values()).backward()
    assert logits.grad is not None and class_logits.grad.abs().sum() > 0


def test_pixels_without_a_label_count_nowhere():
    labels = torch.zeros(16, 16, dtype=torch.int64)
    labels[:, 8:] = 255
    found = segments_of((16, 16), (), labels)
    logits = torch.randn(1, 2, 16, 16)
    changed = logits.clone()
    changed[..., 9:] = torch.randn(1, 2, 16, 7)  # a column of distance: points between pixels read both
    results = []
    for each in (logits, changed):
        torch.manual_seed(0)
        criterion = MaskCriterion(points=256, importance=0.0)
        results.append(criterion([Masks(each, torch.zeros(1, 2, 2))], [found]))
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(results[0][name], results[1][name])


def test_half_precision_inputs_are_judged_in_full():
    answer = Masks(*(t.bfloat16() for t in perfect(truth(), sharpness=3.0)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = MaskCriterion(points=64)([answer], [truth()])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("wrong", [{"points": 0}, {"oversample": 0.5}, {"importance": 1.5}])
def test_options_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        MaskCriterion(**wrong)


# --- schedule ---------------------------------------------------------------------------------------------------------
def test_the_head_warms_up_first_and_then_the_encoder():
    head, encoder = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.AdamW([{"params": [head], "lr": 1.0}, {"params": [encoder], "lr": 0.5}])
    schedule = StagedWarmupPolyLR(optimizer, warmup=[4, 10], power=0.9, by_epoch=False, end=54)
    rates = []
    for _ in range(54):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    heads, encoders = zip(*rates, strict=True)
    assert heads[2] == pytest.approx(0.5) and heads[4] == pytest.approx(1.0)
    assert encoders[:5] == (0.0,) * 5 and encoders[9] == pytest.approx(0.25) and encoders[14] == pytest.approx(0.5)
    assert heads[29] == pytest.approx((1 - 25 / 50) ** 0.9) and encoders[34] == pytest.approx(0.5 * 0.5**0.9)
    assert heads[-1] < 0.05
    with pytest.raises(ValueError, match="two numbers"):
        StagedWarmupPolyLR(optimizer, warmup=[4], by_epoch=False, end=5)


def test_the_hook_follows_the_iteration():
    from pe_spatial.segmentation import MaskAnnealingHook

    runner = SimpleNamespace(model=SimpleNamespace(masking=[0.0, 0.0]), iter=0, max_iters=40)
    seen = []
    for runner.iter in range(40):
        MaskAnnealingHook().before_train_iter(runner, runner.iter)
        seen.append(list(runner.model.masking))
    assert seen[:11] == [[1.0, 1.0]] * 11 and seen[30:] == [[0.0, 0.0]] * 10
    assert all(0 < first < 1 and second == 1 for first, second in seen[11:20])
