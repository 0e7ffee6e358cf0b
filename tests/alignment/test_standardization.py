"""Targets with zero mean and equal variances: against the whole data at once, in steps, and frozen."""

import pytest
import torch

from pe_spatial.alignment.standardization import TargetStandardization, equalizing_rotation


def data(seed=0, rows=400, channels=6):
    """Correlated channels with far means, and deviations from 0.1 to 100."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-1, 2, channels, dtype=torch.float64)
    noise = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    return (noise @ mixing) * scales + 50 * torch.randn(channels, generator=generator, dtype=torch.float64)


def counted(method, parts, freeze_after=None):
    module = TargetStandardization(parts[0].shape[-1], method, freeze_after or len(parts))
    for part in parts:
        module.update(part)
    return module


@pytest.mark.parametrize("method", ["channels", "isotropic"])
def test_all_channels_have_one_variance_and_no_mean(method):
    x = data()
    standard = counted(method, [part.unflatten(0, (2, -1)) for part in x.split(100)])(x)
    torch.testing.assert_close(standard.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-6)
    variances = standard.var(0, correction=0)
    torch.testing.assert_close(variances, torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_isotropic_one_keeps_the_proportions_of_distances():
    x = data()
    standard = counted("isotropic", [x])(x)
    ratio = torch.pdist(standard[:20]) / torch.pdist(x[:20])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-9, atol=0)


@pytest.mark.parametrize("channels", [2, 5, 48])
def test_the_rotation_is_one(channels):
    covariance = torch.cov(data(rows=300, channels=channels).T)
    R = equalizing_rotation(covariance)
    torch.testing.assert_close(R @ R.T, torch.eye(channels, dtype=torch.float64), rtol=0, atol=1e-10)
    rotated = (R @ covariance @ R.T).diagonal() / covariance.diagonal().mean()
    torch.testing.assert_close(rotated, torch.ones(channels, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["channels", "isotropic"])
def test_steps_count_as_the_whole_and_then_no_more(method):
    x = data()
    whole, steps = counted(method, [x], 1), counted(method, x.split(80), 5)
    torch.testing.assert_close(steps.mean, whole.mean)
    torch.testing.assert_close(steps.scatter, whole.scatter)
    assert steps.frozen and steps.ready
    before = steps(x)
    steps.update(data(seed=1))
    assert torch.equal(steps(x), before)


def test_the_state_is_all_that_a_resume_needs():
    parts = data().split(80)
    whole, begun = counted("isotropic", parts), counted("isotropic", parts[:3], len(parts))
    assert not begun.ready and not begun.frozen
    resumed = TargetStandardization(6, "isotropic", len(parts))
    resumed.load_state_dict(begun.state_dict())
    for part in parts[3:]:
        resumed.update(part)
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_a_constant_channel_stays_constant():
    x = data()
    x[:, 2] = 7.0
    standard = counted("channels", [x])(x)
    assert standard.isfinite().all() and standard[:, 2].abs().max() < 1e-6


def test_none_leaves_everything_as_it_is():
    module, x = TargetStandardization(6, "none"), data().bfloat16()
    module.update(x)
    assert module(x) is x and module.ready and not module.state_dict()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="standardize 'phi'"):
        TargetStandardization(4, "phi")
    with pytest.raises(ValueError, match="freeze_after 0"):
        TargetStandardization(4, "channels", 0)
