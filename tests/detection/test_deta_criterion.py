"""DETA's losses at their limits."""

import pytest
import torch

from pe_spatial.detection.deta.criterion import Criterion, prediction_losses
from pe_spatial.detection.deta.matching import IoUMatching, MatchedPairs, OneToOneMatching, Target
from pe_spatial.detection.deta.transformer import Prediction, Predictions

BOXES = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]])
TRUTH = Target(BOXES, torch.tensor([1, 0]))
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def perfect(classes=3, queries=12):
    """Two queries that know everything, the others nothing."""
    logits = torch.full((1, queries, classes), -20.0)
    boxes = torch.full((1, queries, 4), 0.05)
    boxes[0, :2] = BOXES
    logits[0, 0, 1] = logits[0, 1, 0] = 20.0
    return Prediction(logits.requires_grad_(), boxes.requires_grad_(), boxes.detach())


def encoder(classes=3):
    found = perfect(classes)
    logits = found.logits.detach().clone()
    logits[0, :2] = torch.tensor([20.0, -20.0, -20.0])  # objects are of class 0
    return found._replace(logits=logits.requires_grad_())


@pytest.mark.parametrize("matching", [IoUMatching(), OneToOneMatching()])
def test_nothing_is_lost_on_perfect_predictions(matching):
    losses = Criterion(matching, (1, 5, 2))(Predictions(encoder(), [perfect(), perfect()]), [TRUTH])
    assert set(losses) == {f"loss_{n}{s}" for n in ("class", "bbox", "giou") for s in ("", "_0", "_enc")}
    for key, value in losses.items():
        assert value.item() == pytest.approx(0, abs=1e-4), key


@pytest.mark.parametrize("matching", [IoUMatching(), OneToOneMatching()])
def test_images_without_objects_give_finite_losses_with_gradients(matching):
    predictions = Predictions(encoder(), [perfect()])
    losses = Criterion(matching, (1, 5, 2))(predictions, [EMPTY])
    assert losses["loss_bbox"].item() == losses["loss_giou"].item() == 0
    assert losses["loss_class"].item() > 1  # what was found is wrong
    sum(losses.values()).backward()
    for prediction in (predictions.encoder, *predictions.layers):
        assert prediction.logits.grad.isfinite().all() and prediction.logits.grad.count_nonzero() > 0
        assert prediction.boxes.grad.isfinite().all()  # zeros, but there: all processes have all gradients


def test_losses_by_hand():
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.5]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.1, 0.1]]])
    prediction = Prediction(logits, boxes, boxes)
    target = Target(torch.tensor([[0.6, 0.5, 0.4, 0.4]]), torch.tensor([1]))
    focal, distance, overlap = prediction_losses(
        prediction, [target], [MatchedPairs(torch.tensor([0]), torch.tensor([0]))], number=2
    )
    p = logits[0].sigmoid()
    nothing = -0.75 * p**2 * (1 - p).log()
    expected = nothing.sum() - nothing[0, 1] - 0.25 * (1 - p[0, 1]) ** 2 * p[0, 1].log()
    assert focal.item() == pytest.approx(expected.item() / 2, rel=1e-5)
    assert distance.item() == pytest.approx(0.1 / 2, rel=1e-5)
    # the boxes share 0.3 x 0.4 of 0.5 x 0.4, their hull
    assert overlap.item() == pytest.approx((1 - 0.6) / 2, rel=1e-4)


def test_weights_multiply_and_the_last_layer_has_no_number():
    predictions = Predictions(encoder(), [perfect(), perfect()])
    shifted = predictions._replace(layers=[p._replace(boxes=p.boxes * 0.9) for p in predictions.layers])
    once, thrice = (Criterion(IoUMatching(), weights)(shifted, [TRUTH]) for weights in ((1, 1, 1), (3, 3, 3)))
    for key in once:
        assert thrice[key].item() == pytest.approx(3 * once[key].item())
