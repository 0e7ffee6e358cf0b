import math

import pytest
import torch
from torch.nn import functional as F

from depth.tiling import DepthTiling, _starts, match_scales


def surface(height=70, width=90):
    """Smooth positive depth as the first channel of an image."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    depth = 5 + y + torch.sin(2 * x)
    return depth.expand(1, 3, -1, -1).clone()


@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("tile", [(32, 32), (48, 90), (70, 16), (200, 200)])
def test_a_consistent_model_is_reproduced(tile, overlap):
    image = surface()
    depth = DepthTiling(tile, overlap)(lambda x: x[:, :1], image)
    assert torch.allclose(depth, image[:, :1], atol=1e-4)


def test_one_tile_is_the_model_itself():
    image = surface(32, 32)
    calls = []
    depth = DepthTiling((32, 48))(lambda x: calls.append(x.shape) or x[:, :1], image)
    assert torch.equal(depth, image[:, :1]) and calls == [image.shape]


def test_tiles_of_different_scale_are_made_to_agree():
    image = surface()
    generator = torch.Generator().manual_seed(0)
    factors = []

    def disagreeing(x):
        factors.append(math.exp(float(torch.randn((), generator=generator)) * 0.2))
        return x[:, :1] * factors[-1]

    depth = DepthTiling((32, 32))(disagreeing, image)
    ratio = depth / image[:, :1]
    expected = math.exp(sum(map(math.log, factors)) / len(factors))  # the mean of the logarithms is kept
    assert torch.allclose(ratio, torch.full_like(ratio, expected), rtol=1e-4)


def test_blending_has_no_seams():
    """Tiles that disagree in more than a factor: steps between neighbours stay far below the disagreement."""
    image = torch.full((1, 3, 64, 200), 5.0)
    numbers = iter(range(100))
    depth = DepthTiling((64, 64), 0.5)(lambda x: x[:, :1] + torch.linspace(-1, 1, 64) * (-1) ** next(numbers), image)
    assert depth.diff(dim=-1).abs().max() < 0.1  # one tile's border differs from the next by 1 or more


def test_images_of_a_batch_do_not_influence_each_other():
    images = torch.cat([surface(), 3 * surface().flip(-1)])
    scale = iter(torch.linspace(0.7, 1.4, 100))

    def predict(x):
        factor = next(scale)
        return x[:, :1] * torch.stack([factor, 1 / factor])[: len(x), None, None, None]

    both = DepthTiling((32, 48))(predict, images)
    scale = iter(torch.linspace(0.7, 1.4, 100))
    assert torch.allclose(DepthTiling((32, 48))(predict, images[:1]), both[:1], rtol=1e-5)


def test_match_scales_of_two_tiles_by_hand():
    tile = torch.ones(1, 4, 4)
    factors = match_scales([tile, 4 * tile], [(0, 0), (0, 2)])
    assert factors.tolist() == pytest.approx([2.0, 0.5])


def test_an_outlier_in_the_overlap_does_not_matter():
    first, second = torch.ones(1, 8, 8), torch.ones(1, 8, 8)
    second[..., 0] = 100.0  # an eighth of the overlap
    assert match_scales([first, second], [(0, 0), (0, 0)]).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize(("length", "tile"), [(100, 32), (33, 32), (64, 32), (1000, 37)])
@pytest.mark.parametrize("overlap", [0.1, 0.5])
def test_tiles_cover_everything_and_overlap_enough(length, tile, overlap):
    starts = _starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile == length
    assert all(b - a <= math.ceil(tile * (1 - overlap)) for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("arguments", [((32,),), ((32, 0),), ((32, 32), 0.0), ((32, 32), 0.6)])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match=r"tile|overlap"):
        DepthTiling(*arguments)


def test_a_blurring_model_is_continuous_across_tiles():
    image = surface() + torch.randn(1, 1, 70, 90, generator=torch.Generator().manual_seed(0)) * 0.1
    blur = lambda x: F.avg_pool2d(x[:, :1], 9, stride=1, padding=4, count_include_pad=False)  # noqa: E731
    whole, tiled = blur(image), DepthTiling((32, 48))(blur, image)
    # the border of a tile is blurred differently, which the factors share out: 1 % of depths from 4 to 9
    assert (whole - tiled).abs().max() < 0.15
    assert (whole - tiled).abs().mean() < 0.05
