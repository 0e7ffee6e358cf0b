import pytest
import torch

from pe_spatial.common.errors import DivergedError
from pe_spatial.detection.mask_rcnn import RPN
from pe_spatial.detection.mask_rcnn.boxes import Target

STRIDES = (4, 8)
SIZES = ((16, 16), (8, 8))


def build(**changes):
    torch.manual_seed(0)
    return RPN(8, STRIDES, **{"anchor_sizes": (8, 16), "pre_nms": (200, 100), "post_nms": (40, 20), **changes})


def features(images=2):
    torch.manual_seed(1)
    return [torch.randn(images, 8, *size) for size in SIZES]


def target(*boxes):
    count = len(boxes)
    return Target(
        torch.tensor(boxes).reshape(-1, 4).float(), torch.zeros(count).long(), torch.zeros(count, 64, 64).bool()
    )


def test_proposals_are_sorted_inside_and_not_empty():
    rpn = build()
    with torch.no_grad():
        for head in (rpn.head.objectness, rpn.head.deltas):
            head.weight.mul_(50)
    sizes = [(64, 50), (33, 64)]
    for (boxes, logits), (height, width) in zip(rpn.predict(features(), sizes), sizes, strict=True):
        assert 0 < len(boxes) <= 20
        assert logits.diff().le(0).all()
        assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
        assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 1]).all()


def test_order_of_predictions_is_the_order_of_anchors():
    """A bump of one anchor's logit and an offset of that anchor must meet in one box."""
    rpn = build(num_convs=0)
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.zero_()
        rpn.head.objectness.weight[2, 0] = 1  # tall anchors follow channel 0
        rpn.head.deltas.weight[2 * 4 + 0, 1] = 1  # their dx follows channel 1
    maps = [torch.zeros(1, 8, *size) for size in SIZES]
    maps[1][0, 0, 3, 5] = 10
    maps[1][0, 1, 3, 5] = 0.5
    boxes, logits = rpn.predict(maps, [(64, 64)])[0]
    width, height = 16 / 2**0.5, 16 * 2**0.5
    center = (5 * 8 + 0.5 * width, 3 * 8)
    expected = [center[0] - width / 2, center[1] - height / 2, center[0] + width / 2, center[1] + height / 2]
    assert logits[0] == 10
    assert boxes[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_perfect_predictions_cost_nothing():
    rpn = build(samples=10_000)
    truth = [target([8.0, 8, 24, 24]), target([0.0, 0, 8, 8], [30, 30, 50, 44])]
    maps = features()
    anchors = torch.cat(rpn._anchors(maps))
    labels, offsets = rpn._regression_targets(anchors, truth)
    counts = [3 * h * w for h, w in SIZES]
    rpn.head.forward = lambda _: (list((labels * 40.0 - 20).split(counts, 1)), list(offsets.split(counts, 1)))
    proposals, losses = rpn.loss(maps, [(64, 64)] * 2, truth)
    assert losses["loss_rpn_loc"] == 0
    assert losses["loss_rpn_cls"] < 1e-4
    torch.testing.assert_close(proposals[0][0], truth[0].boxes[0], atol=1e-3, rtol=0)


def test_losses_are_divided_by_samples_and_images():
    """Logits of 0 cost log 2 each; 256 sampled anchors of each image were found, so the mean is log 2."""
    rpn = build(samples=256)
    with torch.no_grad():
        for parameter in rpn.parameters():
            parameter.zero_()
    _, losses = rpn.loss(features(), [(64, 64)] * 2, [target(), target([8.0, 8, 24, 24])])
    assert losses["loss_rpn_cls"].item() == pytest.approx(0.6931, abs=1e-4)


def test_no_objects_no_box_loss_but_gradients_everywhere():
    rpn = build()
    _, losses = rpn.loss(features(), [(64, 64)] * 2, [target(), target()])
    assert losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in rpn.parameters())


def test_divergence_is_named():
    rpn = build()
    maps = features()
    maps[0][0, 0, 0, 0] = torch.nan
    with pytest.raises(DivergedError, match="diverged"):
        rpn.loss(maps, [(64, 64)] * 2, [target(), target()])


def test_one_anchor_size_per_map():
    with pytest.raises(ValueError, match="3 anchor_sizes .* for 2 maps"):
        build(anchor_sizes=(8, 16, 32))
