import math

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.depth.tiling import DepthTiling, match_scales


def surface(height=70, width=90):
    """Smooth positive depth as the channels of an image."""
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    depth = 5 + y + torch.sin(2 * x)
    return depth.expand(1, 3, -1, -1).clone()


def is_whole(x, tile):
    """Whether the tiling asks for the reduced picture, which is the last thing that it asks for."""
    return x.shape[-2:] != torch.Size(tile)


@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("tile", [(32, 32), (48, 90), (70, 16)])
def test_a_consistent_model_is_reproduced(tile, overlap):
    image = surface()
    depth = DepthTiling(tile, overlap)(lambda x: x[:, :1], image)
    assert torch.allclose(depth, image[:, :1], rtol=1e-2)  # the reduced picture, of 16 columns, is not quite the same


@pytest.mark.parametrize("tile", [(32, 32), (32, 48), (200, 200)])
def test_one_tile_is_the_model_itself(tile):
    image = surface(32, 32)
    calls = []
    depth = DepthTiling(tile)(lambda x: calls.append(x.shape) or x[:, :1], image)
    assert torch.equal(depth, image[:, :1]) and calls == [image.shape]


def test_tiles_of_different_scale_are_made_to_agree_with_the_whole():
    image = surface()
    generator = torch.Generator().manual_seed(0)

    def disagreeing(x):
        factor = 1.0 if is_whole(x, (32, 32)) else math.exp(float(torch.randn((), generator=generator)) * 0.2)
        return x[:, :1] * factor

    depth = DepthTiling((32, 32))(disagreeing, image)
    assert torch.allclose(depth, image[:, :1], rtol=0.01)


def test_the_whole_picture_sets_the_scale_when_every_tile_looks_nearer():
    image = surface()
    depth = DepthTiling((32, 32))(lambda x: x[:, :1] * (1.0 if is_whole(x, (32, 32)) else 0.4), image)
    assert torch.allclose(depth, image[:, :1], rtol=2e-3)


def test_a_step_in_the_whole_picture_alone_is_spread_out():
    image = torch.full((1, 3, 32, 128), 4.0)

    def predict(x):
        depth = x[:, :1].clone()
        if is_whole(x, (32, 32)):
            depth[..., : depth.shape[-1] // 2] *= 1.3
        return depth

    depth = DepthTiling((32, 32), 0.5)(predict, image)
    assert depth.diff(dim=-1).abs().max() < 0.1  # the step is one of 1.2


def test_blending_has_no_seams():
    """Tiles that disagree in more than a factor: steps between neighbors stay far below the disagreement."""
    image = torch.full((1, 3, 64, 200), 5.0)
    numbers = iter(range(100))

    def tilted(x):
        return x[:, :1] + torch.linspace(-1, 1, x.shape[-1]) * (-1) ** next(numbers)

    depth = DepthTiling((64, 64), 0.5)(tilted, image)
    assert depth.diff(dim=-1).abs().max() < 0.1  # one tile's border differs from the next by 1 or more


def test_images_of_a_batch_do_not_influence_each_other():
    images = torch.cat([surface(), 3 * surface().flip(-1)])

    def predictor():
        scale = iter(torch.linspace(0.7, 1.4, 100))

        def predict(x):
            factor = next(scale)
            return x[:, :1] * torch.stack([factor, 1 / factor])[: len(x), None, None, None]

        return predict

    both = DepthTiling((32, 48))(predictor(), images)
    assert torch.allclose(DepthTiling((32, 48))(predictor(), images[:1]), both[:1], rtol=1e-5)


def test_the_reduced_picture_is_a_multiple_and_fits_a_tile():
    seen = []
    DepthTiling((32, 48))(lambda x: seen.append(tuple(x.shape[-2:])) or x[:, :1], surface(160, 96), multiple=16)
    assert set(seen[:-1]) == {(32, 48)} and seen[-1] == (32, 16)


def test_match_scales_of_two_tiles_by_hand():
    tile, whole = torch.ones(1, 4, 4), torch.ones(1, 4, 6)
    factors = match_scales([tile, 4 * tile], [(0, 0), (0, 2)], whole)
    # minimize (f0 - f1 - ln 4)² / 2 + (f0² + (f1 + ln 4)²): f0 = -s, f1 = s - ln 4 with s = 0 by symmetry
    assert factors.tolist() == pytest.approx([1.0, 0.25])
    factors = match_scales([tile, tile], [(0, 0), (0, 2)], torch.cat([whole[..., :3], 4 * whole[..., :3]], dim=-1))
    # the overlap asks for f0 = f1; the whole for 0 and ln 4, its medians under the two tiles
    log = math.log(4)
    difference = log / (1 + 2 * 0.5)
    assert factors.log().tolist() == pytest.approx([(log - difference) / 2, (log + difference) / 2])


def test_an_outlier_in_the_overlap_does_not_matter():
    first, second = torch.ones(1, 8, 8), torch.ones(1, 8, 8)
    second[..., 0] = 100.0  # an eighth of the overlap
    assert match_scales([first, second], [(0, 0), (0, 0)], first).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("arguments", [((32,),), ((32, 0),), ((32, 32), 0.0), ((32, 32), 0.6)])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match=r"tile|overlap"):
        DepthTiling(*arguments)


def test_a_model_that_looks_around_is_continuous_across_tiles():
    image = surface() + torch.randn(1, 1, 70, 90, generator=torch.Generator().manual_seed(0)) * 0.1

    def blur(x):
        return F.avg_pool2d(x[:, :1], 9, stride=1, padding=4, count_include_pad=False)

    whole, tiled = blur(image), DepthTiling((32, 48))(blur, image)
    assert (whole - tiled).abs().max() < 0.2  # of depths from 4 to 9
    assert (whole - tiled).abs().mean() < 0.05
