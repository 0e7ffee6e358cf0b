import numpy as np
import pytest
import torch

from pe_spatial.depth.losses import MultiScaleGradientLoss, ScaleInvariantLogLoss


def scene(seed=0, shape=(2, 1, 13, 17), missing=0.3):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator) * 9 + 0.5
    prediction = target * torch.exp(0.3 * torch.randn(shape, generator=generator))
    valid = torch.rand(shape, generator=generator) > missing
    return prediction, target, valid


def reference_silog(prediction, target, valid, invariance, eps):
    """Eigen's double sum over pairs of pixels, which is another way to write the same formula."""
    p, t, v = (x.numpy() for x in (prediction, target, valid))
    g = np.log(p[v].astype(np.float64) + eps) - np.log(t[v].astype(np.float64) + eps)
    n = len(g)
    return np.sqrt((g**2).mean() - invariance * sum(g[i] * g[j] for i in range(n) for j in range(n)) / n**2)


def reference_gradient(prediction, target, valid, scales, eps):
    p, t, v = (x.numpy() for x in (prediction, target, valid))
    g = np.log(p.astype(np.float64) + eps) - np.log(t.astype(np.float64) + eps)
    total = 0.0
    for scale in range(scales):
        step, (batch, _, height, width) = 2**scale, g.shape
        down, across = [], []
        for b in range(batch):
            for y in range(0, height, step):
                for x in range(0, width, step):
                    if y + step < height and v[b, 0, y, x] and v[b, 0, y + step, x]:
                        down.append(abs(g[b, 0, y + step, x] - g[b, 0, y, x]))
                    if x + step < width and v[b, 0, y, x] and v[b, 0, y, x + step]:
                        across.append(abs(g[b, 0, y, x + step] - g[b, 0, y, x]))
        total += np.mean(down) + np.mean(across)
    return total


@pytest.mark.parametrize("invariance", [0.0, 0.5, 0.85, 1.0])
def test_silog_is_the_published_formula(invariance):
    prediction, target, valid = scene()
    loss = ScaleInvariantLogLoss(invariance=invariance, loss_weight=2.0)(prediction, target, valid)
    assert float(loss) == pytest.approx(2 * reference_silog(prediction, target, valid, invariance, 0.001), rel=1e-5)


@pytest.mark.parametrize("scales", [1, 2, 4])
def test_gradient_loss_is_the_published_formula(scales):
    prediction, target, valid = scene(1)
    loss = MultiScaleGradientLoss(scales=scales, loss_weight=1.0)(prediction, target, valid)
    assert float(loss) == pytest.approx(reference_gradient(prediction, target, valid, scales, 0.001), rel=1e-5)


LOSSES = [ScaleInvariantLogLoss(), ScaleInvariantLogLoss(invariance=1.0), MultiScaleGradientLoss()]


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_vanish_on_a_perfect_prediction_with_a_finite_gradient(loss):
    _, target, valid = scene()
    prediction = target.clone().requires_grad_()
    value = loss(prediction, target, valid)
    value.backward()
    assert float(value.detach()) == 0
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_zero_without_a_valid_pixel_and_backward_runs(loss):
    prediction, target, valid = scene()
    prediction.requires_grad_()
    value = loss(prediction, torch.zeros_like(target), torch.zeros_like(valid))
    value.backward()
    assert float(value.detach()) == 0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_invalid_pixels_count_neither_in_the_loss_nor_in_the_gradient(loss):
    prediction, target, valid = scene()
    prediction.requires_grad_()
    expected = loss(prediction, target, valid)
    expected.backward()
    assert (prediction.grad[~valid] == 0).all()
    with torch.no_grad():
        other = prediction.clone()
        other[~valid] = torch.inf
        garbage = target.masked_fill(~valid, torch.nan)
    other.requires_grad_()
    actual = loss(other, garbage, valid)
    actual.backward()
    assert float(actual.detach()) == float(expected.detach())
    assert torch.equal(other.grad, prediction.grad)


def test_only_full_invariance_forgives_a_wrong_scale():
    _, target, valid = scene()
    target = target * 100  # eps breaks the invariance near 0
    forgiving = ScaleInvariantLogLoss(invariance=1.0, eps=1e-8)(3 * target, target, valid)
    strict = ScaleInvariantLogLoss(invariance=0.0, eps=1e-8)(3 * target, target, valid)
    assert float(forgiving) < 1e-6
    assert float(strict) == pytest.approx(np.log(3), rel=1e-5)
    assert float(MultiScaleGradientLoss(eps=1e-8)(3 * target, target, valid)) < 1e-5


def test_one_valid_pixel_is_enough():
    prediction, target, _ = scene(missing=0)
    valid = torch.zeros_like(target, dtype=torch.bool)
    valid[0, 0, 3, 4] = True
    value = ScaleInvariantLogLoss(invariance=0.85)(prediction, target, valid)
    g = torch.log(prediction[valid] + 0.001) - torch.log(target[valid] + 0.001)
    assert float(value) == pytest.approx(0.15**0.5 * abs(float(g)), rel=1e-5)
    assert float(MultiScaleGradientLoss()(prediction, target, valid)) == 0  # a single pixel has no neighbor


def test_half_precision_predictions_are_judged_in_full_precision():
    prediction, target, valid = scene()
    half = prediction.detach().bfloat16()
    assert ScaleInvariantLogLoss()(half, target, valid).dtype == torch.float32
    assert float(ScaleInvariantLogLoss()(half, target, valid)) == float(
        ScaleInvariantLogLoss()(half.float(), target, valid)
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ScaleInvariantLogLoss(invariance=1.5), "invariance 1.5"),
        (lambda: MultiScaleGradientLoss(scales=0), "scales 0"),
    ],
)
def test_arguments_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
