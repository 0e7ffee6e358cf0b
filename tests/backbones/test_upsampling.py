"""Fine maps: what every upsampler keeps, what the guided ones gain at an edge, and how much memory they take."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pe_spatial.backbones.upsampling import Interpolation, JointBilateral, LearnedUpsampler, b_spline
from pe_spatial.common.errors import OptionError, PictureError

GUIDED = [JointBilateral, LearnedUpsampler]
ALL = [Interpolation, *GUIDED]


def build(kind, patch=8, stride=2, channels=6, **options):
    if kind is not LearnedUpsampler:
        return kind(patch, stride, **options)
    torch.manual_seed(0)
    upsampler = kind(patch, stride, channels=channels, **options)
    with torch.no_grad():  # as if trained: a new one asks nothing
        for parameter in upsampler.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.2)
    return upsampler.requires_grad_(False)


def drawn(batch=2, h=5, w=7, patch=8, channels=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    pictures = torch.randn(batch, 3, h * patch, w * patch, generator=random)
    return pictures, torch.randn(batch, channels, h, w, generator=random)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("patch", "stride"), [(16, 4), (16, 2), (16, 1), (14, 7), (14, 2), (14, 1)])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5)])
def test_the_grid_is_that_of_the_stride_and_constant_features_stay_constant(kind, patch, stride, grid):
    pictures, _ = drawn(1, *grid, patch)
    maps = torch.arange(6.0)[None, :, None, None].expand(1, 6, *grid)
    (fine,) = build(kind, patch, stride)(pictures, [maps])
    assert fine.shape == (1, 6, pictures.shape[2] // stride, pictures.shape[3] // stride)
    torch.testing.assert_close(fine, torch.arange(6.0)[None, :, None, None].expand_as(fine))


@pytest.mark.parametrize("kind", GUIDED)
@pytest.mark.parametrize("reach", [1, 2, 3])
def test_tiles_of_any_side_equal_the_whole(kind, reach):
    pictures, maps = drawn()
    upsampler = build(kind, reach=reach)
    (whole,) = upsampler(pictures.requires_grad_(), [maps])  # where gradients are needed, one tile holds all
    assert whole.requires_grad
    for tile in (1, 2, 3, 5, 64, None):
        upsampler.tile = tile
        (tiled,) = upsampler(pictures.detach(), [maps])
        torch.testing.assert_close(
            tiled, whole.detach(), rtol=1e-6, atol=2e-5
        )  # kernels of some processors add up by size


def reference(upsampler, picture, tokens):
    """Joint bilateral upsampling by its definition, cell by cell."""
    n, s, p, reach = upsampler.cells, upsampler.stride, upsampler.patch_size, upsampler.reach
    (h, w), colors = tokens.shape[1:], picture / 2  # a deviation of 127.5 is half of the range
    fine = torch.zeros(len(tokens), h * n, w * n)
    for i in range(h * n):
        for j in range(w * n):
            color = colors[:, i * s : (i + 1) * s, j * s : (j + 1) * s].mean((1, 2))
            total = 0.0
            for a in range(max(i // n - reach, 0), min(i // n + reach + 1, h)):
                for b in range(max(j // n - reach, 0), min(j // n + reach + 1, w)):
                    mean = colors[:, a * p : (a + 1) * p, b * p : (b + 1) * p].mean((1, 2))
                    distance = torch.tensor([(i + 0.5) / n - a - 0.5, (j + 0.5) / n - b - 0.5])
                    weight = b_spline(distance, 2 * reach).prod()
                    weight = weight * math.exp(-float((color - mean).square().sum()) / (2 * upsampler.sigma**2))
                    fine[:, i, j] += weight * tokens[:, a, b]
                    total += weight
            fine[:, i, j] /= total
    return fine


def test_joint_bilateral_is_its_definition():
    pictures, maps = drawn(1, 3, 4, patch=4)
    upsampler = JointBilateral(4, 2, reach=1, sigma=0.7)
    (fine,) = upsampler(pictures, [maps])
    torch.testing.assert_close(fine[0], reference(upsampler, pictures[0], maps[0]), rtol=1e-4, atol=1e-5)


def test_a_learned_one_begins_as_joint_bilateral():
    pictures, maps = drawn()
    fresh = LearnedUpsampler(8, 2, channels=6)
    torch.testing.assert_close(fresh(pictures, [maps]), JointBilateral(8, 2)(pictures, [maps]))


@pytest.mark.parametrize("reach", [1, 2])
def test_without_edges_a_straight_line_stays_straight(reach):
    """On a picture of one color: smooth interpolation, exact for a ramp away from the border."""
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    maps = torch.stack([rows, columns])[None]
    (fine,) = JointBilateral(8, 2, reach=reach)(torch.full((1, 3, 72, 88), 0.3), [maps])
    expected = F.interpolate(maps, scale_factor=4, mode="bilinear")
    inner = (..., slice(reach * 4, -reach * 4), slice(reach * 4, -reach * 4))
    torch.testing.assert_close(fine[inner], expected[inner])
    assert float((fine - expected).abs().max()) < 0.6  # tokens


def edge(place, patch=8, h=6, w=6):
    """A picture of two colors that meet at a column, and the tokens of an encoder that sees shares of them."""
    column = torch.arange(w * patch)
    right = (column >= place).float().expand(h * patch, -1)
    picture = (0.8 * right - 0.4)[None, None].expand(1, 3, -1, -1)
    return picture, F.avg_pool2d(right[None, None], patch), right


@pytest.mark.parametrize("kind", [JointBilateral, lambda *args: LearnedUpsampler(*args, channels=1)])
@pytest.mark.parametrize("place", [24, 26, 28, 31])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_of_the_picture_keeps_that_of_the_features(kind, place, stride):
    picture, maps, truth = edge(place)
    truth = F.avg_pool2d(truth[None, None], stride)
    near = slice((place - 8) // stride, (place + 8) // stride)
    errors = {
        name: float((fine - truth)[..., near].abs().mean())
        for name, (fine,) in {
            "guided": kind(8, stride)(picture, [maps]),
            "bilinear": Interpolation(8, stride)(picture, [maps]),
        }.items()
    }
    assert errors["guided"] < 0.7 * errors["bilinear"]


@pytest.mark.parametrize("kind", ALL)
def test_a_picture_comes_out_as_without_its_neighbors_in_the_batch(kind):
    pictures, maps = drawn(3)
    upsampler = build(kind)
    (together,) = upsampler(pictures, [maps])
    for number in range(3):
        (alone,) = upsampler(pictures[number, None], [maps[number, None]])
        torch.testing.assert_close(alone[0], together[number], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_several_maps_are_upsampled_each(kind):
    pictures, maps = drawn()
    both = build(kind)(pictures, [maps, maps.flip(1)])
    (second,) = build(kind)(pictures, [maps.flip(1)])
    torch.testing.assert_close(both[1], second)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("cast", [False, True])
def test_bfloat16_is_close(kind, cast):
    pictures, maps = drawn()
    upsampler = build(kind)
    (exact,) = upsampler(pictures, [maps])
    if cast:
        (rough,) = upsampler.to(torch.bfloat16)(pictures.bfloat16(), [maps.bfloat16()])
        assert rough.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (rough,) = upsampler(pictures, [maps.bfloat16()])
    assert float((rough.float() - exact).abs().mean()) < 0.03


@pytest.mark.parametrize("kind", GUIDED)
def test_gradients_reach_the_tokens_and_what_is_trained(kind):
    pictures, maps = drawn(1, 3, 3)
    upsampler = build(kind).double().requires_grad_()
    (fine,) = upsampler(pictures.double(), [maps.double().requires_grad_()])
    fine.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in upsampler.parameters())

    def of_tokens(tokens):
        return upsampler(pictures.double(), [tokens])[0]

    assert torch.autograd.gradcheck(of_tokens, maps.double().requires_grad_(), fast_mode=True)


class Largest(TorchDispatchMode):
    """Remembers the most bytes that a result of an operator held, beside some tensors and results of some size."""

    def __init__(self, known, size):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.size = size
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for item in found if isinstance(found, tuple | list) else [found]:
            storage = item.untyped_storage() if isinstance(item, torch.Tensor) else None
            if storage is not None and storage.data_ptr() not in self.known and storage.nbytes() != self.size:
                self.bytes = max(self.bytes, storage.nbytes())
        return found


@pytest.mark.parametrize("kind", GUIDED)
def test_memory_grows_with_the_tile_and_not_with_the_picture(kind):
    found = {}
    for tile, side in ((2, 12), (2, 24), (4, 24)):
        pictures, maps = drawn(1, side, side)
        upsampler = build(kind, tile=tile)
        with Largest([pictures, maps, *upsampler.parameters()], size=4 * (side * 4) ** 2 * 6) as largest:
            upsampler(pictures, [maps])
        found[tile, side] = largest.bytes
    assert found[2, 12] == found[2, 24] < found[4, 24]


@pytest.mark.parametrize("kind", GUIDED)
def test_it_is_exported_for_any_size(kind):
    pictures, maps = drawn()
    upsampler = build(kind)

    class Exported(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.upsampler = upsampler

        def forward(self, pictures, maps):
            return self.upsampler(pictures, [maps])[0]

    h, w = torch.export.Dim("h", min=2, max=64), torch.export.Dim("w", min=2, max=64)
    shapes = ({2: 8 * h, 3: 8 * w}, {2: h, 3: w})
    program = torch.export.export(Exported(), (pictures, maps), dynamic_shapes=shapes, strict=False)
    others = drawn(h=3, w=9, seed=5)
    torch.testing.assert_close(program.module()(*others), upsampler(others[0], [others[1]])[0])


def test_the_spline_sums_to_one_and_ends_with_its_support():
    for degree in (1, 2, 4, 6):
        places = torch.linspace(-0.5, 0.5, 9, dtype=torch.float64)[:, None] - torch.arange(-4, 5)
        torch.testing.assert_close(b_spline(places, degree).sum(1), torch.ones(9, dtype=torch.float64))
        assert float(b_spline(torch.tensor([(degree + 1) / 2]), degree)) == 0


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stride", [0, 3, 8, 16, 2.0, "2"])
def test_a_stride_that_does_not_divide_the_patch_is_refused(stride):
    with pytest.raises(OptionError, match="use one of 1, 2, 4"):
        JointBilateral(8, stride)


@pytest.mark.parametrize("wrong", [{"reach": 0}, {"reach": 1.5}, {"tile": 0}, {"sigma": 0}, {"sigma": math.nan}])
def test_options_outside_their_range_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        JointBilateral(8, 2, **wrong)


@pytest.mark.parametrize("kind", ALL)
def test_a_map_of_another_picture_is_refused(kind):
    pictures, maps = drawn()
    for wrong in (pictures[..., :-8], pictures[:1], pictures[..., :-1]):
        with pytest.raises(PictureError, match="is not of pictures"):
            build(kind)(wrong, [maps])
