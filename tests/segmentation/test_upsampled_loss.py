"""The cross-entropy of enlarged scores is the one of torch and mmseg, with its gradient and its accuracy."""

import pytest
import torch
from mmseg.models.losses import CrossEntropyLoss, accuracy
from torch.nn import functional as F

from pe_spatial.data.stacked import StackedSamples
from pe_spatial.segmentation import LinearHead
from pe_spatial.segmentation.upsampled_loss import upsampled_cross_entropy

SIZES = [((3, 4), (48, 64)), ((5, 4), (13, 31)), ((7, 7), (7, 7)), ((8, 8), (5, 3)), ((1, 1), (4, 6))]


def theirs(scores, labels):
    pixels = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = CrossEntropyLoss(avg_non_ignore=True)(pixels, labels[:, 0].long(), ignore_index=255)
    return loss, accuracy(pixels, labels[:, 0].long(), ignore_index=255)


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("cells", "pixels"), SIZES)
def test_it_is_the_loss_of_enlarged_scores(cells, pixels, ignored):
    generator = torch.Generator().manual_seed(0)
    scores = (9 * torch.randn(2, 6, *cells, generator=generator)).requires_grad_()
    labels = torch.randint(6, (2, 1, *pixels), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
    results = []
    for loss_of in (theirs, lambda *given: upsampled_cross_entropy(*given, ignore_index=255)):
        loss, right = loss_of(scores, labels)
        (gradient,) = torch.autograd.grad(3 * loss, scores)
        results.append((loss.detach(), right.reshape(()), gradient))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_scores_far_apart_neither_overflow_nor_vanish():
    scores = torch.tensor([200.0, -200.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss, right = upsampled_cross_entropy(scores, torch.ones(1, 1, 2, 2, dtype=torch.uint8), 255)
    loss.backward()
    assert loss == 400 and right < 1e-5 and scores.grad.flatten().tolist() == [1, -1, 0]


def test_mixed_precision_is_computed_in_float32():
    scores, labels = torch.randn(1, 4, 3, 3, dtype=torch.bfloat16), torch.ones(1, 1, 9, 9, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = upsampled_cross_entropy(scores, labels, 255)
    torch.testing.assert_close(loss, theirs(scores.float(), labels)[0])


def test_a_label_without_a_score_is_an_error():
    with pytest.raises((RuntimeError, IndexError), match="out of"):
        upsampled_cross_entropy(torch.zeros(1, 4, 3, 3), torch.full((1, 1, 9, 9), 4), 255)


def test_the_default_loss_of_the_linear_head_is_the_one_of_mmseg():
    """A configured loss takes mmseg's way, from samples and from a stacked batch."""
    labels = torch.randint(4, (2, 1, 16, 16), dtype=torch.uint8)
    batch = StackedSamples({"gt_sem_seg": labels}, lambda place: {"img_path": str(place)})
    configured = {"type": "mmseg.CrossEntropyLoss", "avg_non_ignore": True}
    scores, losses = torch.randn(2, 4, 2, 2), []
    for loss in (None, configured):
        head = LinearHead(6, 4, loss_decode=loss)
        losses += [head.loss_by_feat(scores, samples) for samples in (batch, list(batch))]
    for other in losses[1:]:
        torch.testing.assert_close({name: value.reshape(()) for name, value in other.items()}, losses[0])
