import pytest
import torch

from pe_spatial.visualization import FeatureColors, similarity, similarity_rgb


def own_colors(features):
    """The colors of one map in its own basis."""
    return FeatureColors([features])(features)


def test_equal_features_have_equal_colors_and_different_ones_do_not():
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(3, 32, generator=generator)
    regions = torch.zeros(16, 24, dtype=torch.long)
    regions[:, 8:16], regions[:, 16:] = 1, 2
    colors = own_colors(prototypes[regions].permute(2, 0, 1))
    assert colors.shape == (3, 16, 24)
    assert colors.dtype == torch.uint8
    inside = [colors[:, 2:-2, start + 2 : start + 6].flatten(1).float() for start in (0, 8, 16)]  # away from the blur
    assert all(region.std(1).max() < 1 for region in inside)
    means = torch.stack([region.mean(1) for region in inside])
    assert (torch.cdist(means, means) + 1e6 * torch.eye(3)).min() > 60


def test_colors_ignore_scale_offset_and_rotation_of_the_features():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(8, 12, 14, generator=generator) * torch.arange(8, 0, -1)[:, None, None]
    expected = own_colors(features).int()
    assert (own_colors(7 * features + 3).int() - expected).abs().max() <= 1


def test_frames_share_one_basis():
    generator = torch.Generator().manual_seed(2)
    frame, other = torch.randn(2, 8, 12, 14, generator=generator)
    colors = FeatureColors([frame, other, frame])
    shared = torch.stack([colors(item) for item in (frame, other, frame)])
    assert shared.shape == (3, 3, 12, 14)
    assert torch.equal(shared[0], shared[2])
    assert not torch.equal(shared[0], shared[1])


def test_half_precision_constant_and_tiny_maps_give_finite_colors():
    features = torch.randn(8, 6, 6, generator=torch.Generator().manual_seed(3))
    assert (own_colors(features.bfloat16()).int() - own_colors(features).int()).abs().float().mean() < 5
    assert own_colors(torch.ones(8, 6, 6)).float().flatten(1).std(1).max() == 0
    assert own_colors(features[:, :1, :2]).shape == (3, 1, 2)


def test_wrong_features_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 6, 6\).*3 or more"):
        own_colors(torch.zeros(2, 6, 6))
    with pytest.raises(ValueError, match="not"):
        own_colors(torch.zeros(6, 6))
    with pytest.raises(ValueError, match="NaN or infinite"):
        own_colors(torch.full((4, 6, 6), torch.nan))


def a_disc_before_a_gradient(seed, radius=5):
    """Features whose foreground is a disc of three sectors, and the disc as bool [h, w]."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(20) - 9.5, torch.arange(24) - 11.5, indexing="ij")
    disc = y.square() + x.square() < radius**2
    sectors = ((torch.atan2(y, x) + torch.pi) / (2 * torch.pi) * 3).long().clamp(max=2)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    front = 6 * basis[0][:, None, None] + 2 * basis[1:4][sectors].permute(2, 0, 1)
    return torch.where(disc, front, 3 * basis[4][:, None, None] * x / 12 - 6 * basis[0][:, None, None]), disc


@pytest.mark.parametrize("seed", range(4))
def test_only_the_foreground_is_colored_whatever_the_sign_of_its_component(seed):
    features, disc = a_disc_before_a_gradient(seed)
    picture = FeatureColors([features], foreground=True)(features)
    gray = (picture == 28).all(0)
    wrong = gray == disc
    assert wrong.float().mean() < 0.06  # the blur moves the border by less than a token
    inside = picture[:, ~gray].float()
    assert inside.std(1).max() > 25  # the three sectors have colors of their own, not those of the background


def test_a_basis_holds_for_maps_that_it_was_not_made_of():
    features, _ = a_disc_before_a_gradient(0)
    colors = FeatureColors([features])
    assert torch.equal(colors(features), own_colors(features))
    shifted = features.roll(3, dims=2)
    assert torch.equal(colors(shifted)[:, 2:-2, 5:-5], colors(features)[:, 2:-2, 2:-8])
    with pytest.raises(ValueError, match="no feature map"):
        FeatureColors([])


def test_similarity_is_one_at_the_token_and_minus_one_at_its_opposite():
    features = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(0))
    features[:, 4, 5] = -3 * features[:, 1, 2]
    cosines = similarity(features, (1, 2))
    assert float(cosines[1, 2]) == pytest.approx(1)
    assert float(cosines[4, 5]) == pytest.approx(-1)
    torch.testing.assert_close(cosines, torch.cosine_similarity(features, features[:, 1, 2, None, None], dim=0))
    with pytest.raises(ValueError, match="outside the map"):
        similarity(features, (5, 0))


def test_a_larger_cosine_is_lighter():
    colors = similarity_rgb(torch.linspace(-0.2, 1, 30).view(5, 6))
    assert colors.shape == (3, 5, 6)
    luminance = torch.einsum("chw,c->hw", colors.float(), torch.tensor([0.299, 0.587, 0.114])).flatten()
    assert (luminance.diff() > 0).all()
    assert torch.equal(similarity_rgb(torch.ones(5, 6))[:, 0, 0], colors[:, -1, -1])
