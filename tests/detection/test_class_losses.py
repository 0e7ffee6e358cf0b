import pytest
import torch
import torch.nn.functional as F

from pe_spatial.common.errors import ConfigError
from pe_spatial.detection.mask_rcnn import FederatedLoss, SoftmaxLoss


def test_softmax_scores_leave_out_the_background():
    logits = torch.tensor([[0.0, 0.0, 100.0], [100.0, 0.0, 0.0]])
    torch.testing.assert_close(SoftmaxLoss().scores(logits), torch.tensor([[0.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("loss", [SoftmaxLoss(), FederatedLoss()])
def test_no_boxes_cost_nothing_and_keep_the_graph(loss):
    logits = torch.zeros(0, 4, requires_grad=True)
    value = loss(logits, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value == 0


def test_federated_loss_of_all_classes_is_binary_cross_entropy():
    loss = FederatedLoss(num_classes_sampled=50)
    loss.set_frequencies([5, 1, 3])
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 3])
    target = F.one_hot(labels, 4)[:, :3].float()
    expected = F.binary_cross_entropy_with_logits(logits[:, :3], target, reduction="sum") / 6
    torch.testing.assert_close(loss(logits, labels), expected)


def test_federated_loss_touches_present_and_drawn_classes_only():
    loss = FederatedLoss(num_classes_sampled=5)
    loss.set_frequencies([100] * 20 + [0] * 20)
    logits = torch.zeros(3, 41, requires_grad=True)
    torch.manual_seed(0)
    loss(logits, torch.tensor([7, 30, 40])).backward()
    touched = logits.grad.any(dim=0).nonzero().squeeze(1).tolist()
    # background counts among the five, as in Detectron2; classes that never occur are not drawn, but count if present
    assert len(touched) == 4
    assert {7, 30} < set(touched)
    assert all(label < 20 for label in set(touched) - {30})


def test_drawing_follows_the_frequency():
    loss = FederatedLoss(num_classes_sampled=2)
    loss.set_frequencies([1, 16, 0])
    torch.manual_seed(0)
    drawn = torch.cat([loss._sampled_classes(torch.tensor([3]), 3) for _ in range(2000)])
    # one place is taken by the background; weights 1 and 4 are the square roots
    assert drawn.eq(1).float().mean().item() == pytest.approx(0.8, abs=0.03)


def test_unknown_frequencies_are_an_error():
    with pytest.raises(ConfigError, match="image_counts"):
        FederatedLoss()(torch.zeros(1, 4), torch.tensor([0]))
