"""Matches under known homographies: the geometry, and what perfect, useless and shifted features score."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from pe_spatial.common.errors import OptionError
from pe_spatial.tracking.correspondence.homographies import Homographies, project
from pe_spatial.tracking.correspondence.matching import match_errors, token_centers

OPTIONS = Homographies(side=112, gain=0, offset=0)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Smooth, so that resampling it twice changes little."""
    noise = np.random.default_rng(0).uniform(0, 255, (112, 112, 3))
    smooth = ndimage.gaussian_filter(noise, (6, 6, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_the_view_shows_at_the_projected_place_what_the_picture_shows(picture, seed):
    view, matrix = OPTIONS.view(picture, seed)
    points = token_centers((7, 7), 16)
    places = project(points, matrix)
    inside = ((places >= 1) & (places <= 110)).all(axis=1)
    assert inside.sum() >= 20
    for channel in range(3):
        before, after = (
            ndimage.map_coordinates(image[..., channel].astype(float), where[inside].T[::-1], order=1)
            for image, where in ((picture, points), (view, places))
        )
        np.testing.assert_allclose(before, after, atol=3)


@pytest.mark.parametrize("seed", range(20))
def test_views_are_turned_scaled_and_shifted_within_their_bounds(seed):
    _, matrix = Homographies(side=112, shift=0).view(np.zeros((112, 112, 3), np.uint8), seed)
    turn = matrix[:2, :2] / matrix[2, 2]
    scale = np.sqrt(np.linalg.det(turn))
    assert 3 / 4 - 1e-6 <= scale <= 4 / 3 + 1e-6
    assert abs(np.rad2deg(np.arctan2(turn[1, 0], turn[0, 0]))) <= 15 + 1e-6
    np.testing.assert_allclose(project(np.array([[55.5, 55.5]]), matrix), [[55.5, 55.5]], atol=1e-4)


def test_the_same_seed_gives_the_same_view(picture):
    first, second = OPTIONS.view(picture, 3), OPTIONS.view(picture, 3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(OPTIONS.view(picture, 4)[1], second[1])


def test_features_that_are_places_match_within_half_a_token():
    """Each token of the view carries the place in the picture that it shows."""
    _, matrix = OPTIONS.view(np.zeros((112, 112, 3), np.uint8), 1)

    def features(points: np.ndarray) -> torch.Tensor:
        angles = torch.from_numpy(points / 112)  # less than a turn: no two places are alike
        return torch.cat((angles.cos(), angles.sin()), -1).div(2**0.5).unflatten(0, (14, 14))

    centers = token_centers((14, 14), 8)
    errors = match_errors(features(centers), features(project(centers, np.linalg.inv(matrix))), matrix, 8)
    assert len(errors) > 80
    assert errors.max() <= 8 * 0.5**0.5 + 2  # the half diagonal of a token, and the distortion of the view


def test_features_of_no_picture_match_nowhere():
    """All alike, the first token is everybody's match."""
    same = torch.ones(14, 14, 1)
    errors = match_errors(same, same, np.eye(3), 8)
    np.testing.assert_allclose(errors, np.linalg.norm(token_centers((14, 14), 8) - 3.5, axis=1))


def test_an_unmoved_view_matches_itself():
    features = torch.nn.functional.normalize(torch.randn(6, 9, 16, generator=torch.manual_seed(0)), dim=-1)
    assert not match_errors(features, features, np.eye(3), 14).any()


def test_the_central_square_is_cut():
    wide = np.zeros((50, 90, 3), np.uint8)
    wide[:, 20:70] = 200
    assert (Homographies(side=25).square(wide) == 200).all()


@pytest.mark.parametrize(
    "settings", [{"side": 0}, {"number": 0}, {"scale": 0.5}, {"shift": 0.5}, {"gain": 1.5}, {"rotation": -1}]
)
def test_values_outside_their_range_are_named(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(OptionError, match=rf"{name} {value}"):
        Homographies(**settings)
