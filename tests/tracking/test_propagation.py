import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pe_spatial.tracking.propagation import Propagation, blend, match, propagate, unit


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def drawn(random, h, w, s, c=8, m=3):
    query, keys = unit(torch.randn(h, w, c, generator=random)), unit(torch.randn(h, w, s, c, generator=random))
    return query, keys, torch.rand(h, w, s, m, generator=random)


def dense(query, keys, labels, how):
    """Every pair of tokens at once: the definition."""
    h, w, s, _ = keys.shape
    affinity = torch.einsum("ijc,uvtc->ijuvt", query, keys)
    y, x = torch.arange(h), torch.arange(w)
    dy, dx = (y[:, None] - y).abs()[:, None, :, None], (x[:, None] - x).abs()[None, :, None, :]
    if how.radius is not None:
        distance = torch.maximum(dy, dx) if how.shape == "square" else (dy**2 + dx**2).sqrt()
        affinity = affinity.masked_fill((distance > how.radius)[..., None], -math.inf)
    top = affinity.flatten(2).topk(min(how.topk, h * w * s), dim=-1)
    weights = (top.values / how.temperature).softmax(dim=-1)
    return (weights[..., None] * labels.flatten(0, 2)[top.indices]).sum(dim=2)


@pytest.mark.parametrize("grid", [(5, 7), (9, 4), (1, 1), (13, 11)])
@pytest.mark.parametrize(
    "how",
    [
        Propagation(radius=2),
        Propagation(radius=2.5, shape="circle", temperature=0.2),
        Propagation(radius=None, topk=7),
        Propagation(radius=40, topk=1),
        Propagation(radius=0, topk=3),
    ],
)
def test_equals_the_dense_definition_at_any_size(random, grid, how):
    query, keys, labels = drawn(random, *grid, 3)
    expected = dense(query, keys, labels, how)
    for tile in (1, 3, 8, 64):
        similarity, index = match(query, keys, how, tile=tile)
        torch.testing.assert_close(blend(similarity[0], index[0], labels, how.temperature), expected)


def test_sets_of_context_frames_equal_contexts_of_those_frames(random):
    query, keys, labels = drawn(random, 11, 6, 4)
    how = Propagation(radius=3, shape="circle")
    valid = torch.tensor([[True, False, True, False], [False, False, False, True], [True, True, True, True]])
    similarity, index = match(query, keys, how, valid=valid)
    for row, chosen in enumerate(valid):
        expected = propagate(query, keys[:, :, chosen], labels[:, :, chosen], how)
        torch.testing.assert_close(blend(similarity[row], index[row], labels, how.temperature), expected)


def test_the_same_frame_keeps_its_labels_and_a_shift_moves_them(random):
    query, _, _ = drawn(random, 8, 8, 1, c=32)
    labels = torch.rand(8, 8, 1, 2, generator=random)
    same = propagate(query, query[:, :, None], labels, Propagation(topk=1))
    torch.testing.assert_close(same, labels[:, :, 0])
    moved = propagate(query.roll(2, dims=1), query[:, :, None], labels, Propagation(radius=2, topk=1))
    torch.testing.assert_close(moved[:, 2:], labels[:, :-2, 0])


def test_soft_labels_keep_their_sum(random):
    query, keys, labels = drawn(random, 9, 9, 2)
    labels = labels / labels.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(propagate(query, keys, labels).sum(dim=-1), torch.ones(9, 9))


def test_bfloat16_follows_float32(random):
    query, keys, labels = drawn(random, 12, 12, 3, c=64)
    exact = propagate(query, keys, labels)
    rounded = propagate(query.bfloat16(), keys.bfloat16(), labels)
    assert rounded.dtype == labels.dtype
    assert (exact - rounded).abs().mean() < 0.02


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            # views of what was there before take no memory
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.numel = max(self.numel, tensor.numel())
        return result


def test_the_affinity_exists_only_for_a_tile_and_its_neighborhood(random):
    how = Propagation(radius=3)
    query, keys, _ = drawn(random, 24, 32, 2, c=4)
    with Largest() as largest:
        match(query, keys, how, tile=4)
    assert largest.numel <= max(4**2 * (4 + 2 * 3) ** 2 * 2, 24 * 32 * how.topk)


def test_clear_errors(random):
    query, keys, _ = drawn(random, 4, 5, 1)
    with pytest.raises(ValueError, match="one size"):
        match(query[:3], keys, Propagation())
    for wrong in ({"radius": -1}, {"shape": "ring"}, {"topk": 0}, {"temperature": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Propagation(**wrong)
