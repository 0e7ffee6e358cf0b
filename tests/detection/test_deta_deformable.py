"""Deformable attention: equal to the straightforward code, its gradients, parts, half precision, and padding."""

import pytest
import torch
import torch.nn.functional as F

from pe_spatial.detection.deta.deformable import DeformableAttention, deformable_attention

SHAPES = ((5, 4), (3, 2), (1, 1))
TOKENS = sum(rows * columns for rows, columns in SHAPES)


def reference(value, shapes, locations, weights):
    """With `grid_sample`, one level after the other."""
    images, _, heads, _ = value.shape
    result = 0
    for level, (tokens, (rows, columns)) in enumerate(
        zip(value.split([r * c for r, c in shapes], 1), shapes, strict=True)
    ):
        maps = tokens.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (rows, columns))  # [B * H, D, h, w]
        places = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # [B * H, Q, P, 2]
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        result = result + (F.grid_sample(maps, places, align_corners=False) * share).sum(-1)  # [B * H, D, Q]
    return result.unflatten(0, (images, heads)).permute(0, 3, 1, 2).flatten(2)


def draw(queries=7, heads=2, channels=3, points=4, spread=1.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, TOKENS, heads, channels, generator=generator, dtype=dtype)
    samples = (2, queries, heads, len(SHAPES), points)
    # a good part of the places is outside of the levels
    locations = 0.5 + spread * (torch.rand(*samples, 2, generator=generator, dtype=dtype) - 0.5)
    weights = torch.rand(samples, generator=generator, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


def call(function, inputs, **options):
    value, locations, weights = inputs
    return function(value, SHAPES, locations, weights, **options)


def test_equals_grid_sample_forward_and_backward():
    inputs = draw()
    found, expected = call(deformable_attention, inputs), call(reference, inputs)
    torch.testing.assert_close(found, expected)
    wanted = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, wanted), torch.autograd.grad(expected, inputs, wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_are_those_of_finite_differences(chunk):
    inputs = draw(queries=3, heads=1, channels=2, points=1)

    def attend(*tensors):
        return call(deformable_attention, tensors, chunk=chunk)

    assert torch.autograd.gradcheck(attend, inputs, eps=1e-7, atol=1e-6, fast_mode=chunk is not None)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_parts_make_the_whole(chunk):
    inputs = draw(dtype=torch.float32)
    whole, parts = call(deformable_attention, inputs), call(deformable_attention, inputs, chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    for a, b in zip(torch.autograd.grad(parts.sum(), inputs), torch.autograd.grad(whole.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_parts_keep_little_for_the_backward_pass():
    inputs = draw(queries=64, dtype=torch.float32)

    def kept(**options):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            call(deformable_attention, inputs, **options)
        return sum(sizes)

    assert kept(chunk=8) < kept() / 3


def test_bfloat16_values_come_near():
    value, locations, weights = draw(dtype=torch.float32)
    expected = deformable_attention(value, SHAPES, locations, weights)
    value = value.detach().bfloat16().requires_grad_()
    found = deformable_attention(value, SHAPES, locations, weights)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.05)
    gradients = torch.autograd.grad(found.float().sum(), (value, locations, weights))
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(g.isfinite().all() for g in gradients)


def test_far_places_count_for_nothing():
    value, _, weights = draw()
    for distance in (3.0, -3.0, 1e9, -1e9, float("inf")):
        found = deformable_attention(value, SHAPES, torch.full((*weights.shape, 2), distance).double(), weights)
        assert found.count_nonzero() == 0


def attention(**options):
    torch.manual_seed(0)
    module = DeformableAttention(8, levels=3, heads=2, points=4, **options)
    torch.nn.init.normal_(module.sampling_offsets.weight, std=0.2)
    torch.nn.init.normal_(module.attention_weights.weight, std=0.2)
    return module


def test_padding_is_not_looked_at():
    module = attention()
    queries, memory = torch.randn(1, 5, 8), torch.randn(1, TOKENS, 8)
    references = torch.rand(1, 5, 3, 2)
    padding = torch.arange(TOKENS)[None] % 3 == 0
    with torch.no_grad():
        found = module(queries, references, memory, SHAPES, padding)
        torch.testing.assert_close(
            module(queries, references, memory + 100 * padding[..., None], SHAPES, padding), found
        )


def test_a_box_is_looked_at_in_proportion_to_its_size():
    """The sampled places of a box, seen from the box, do not depend on where it is and how large."""
    module = attention()
    seen = []
    module.output_proj = torch.nn.Identity()
    for box in ([0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.2]):
        references = torch.tensor(box).expand(1, 1, 3, 4)
        # every token holds its own place, so that a sample inside of the image says where it was taken
        places = torch.cat([torch.cartesian_prod(torch.arange(r) + 0.5, torch.arange(c) + 0.5) for r, c in ((40, 40),)])
        table = torch.cat((places.flip(1) / 40, torch.zeros(1600, 6)), 1)[None].repeat(1, 3, 1)
        module.value_proj = torch.nn.Identity()
        with torch.no_grad():
            mean = module(torch.ones(1, 1, 8), references, table, [(40, 40)] * 3)[0, 0, :2]
        seen.append((mean - torch.tensor(box[:2])) / torch.tensor(box[2:]))
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0)


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match="10 channels do not divide among 4 heads"):
        DeformableAttention(10, levels=1, heads=4, points=1)
