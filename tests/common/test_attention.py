"""Attention by oneDNN is that of PyTorch, and is left to PyTorch where something else is asked for."""

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.common import attention as module
from pe_spatial.common import linear
from pe_spatial.common.attention import attention


@pytest.fixture
def calls(monkeypatch):
    """The rows that oneDNN multiplies, on a processor for which it is the faster of both."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    made, multiply = [], module.multiply

    def counted(x, weight):
        made.append(len(x))
        return multiply(x, weight)

    monkeypatch.setattr(linear, "_is_faster_with_onednn", lambda: True)
    monkeypatch.setattr(module, "multiply", counted)
    return made


def example(keys=700):
    torch.manual_seed(0)
    return torch.randn(2, 3, 500, 32), torch.randn(2, 3, keys, 32), torch.randn(2, 3, keys, 32)


def expected(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("scores", [2**30, 700 * 128, 1])
def test_every_number_of_rows_at_a_time_gives_what_pytorch_does(scores, calls, monkeypatch):
    monkeypatch.setattr(module, "_SCORES", scores)
    q, k, v = example()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v), rtol=1e-5, atol=1e-6)
    assert sum(calls) == 2 * 2 * 3 * 500 and max(calls) == min(max(scores // 700, 1), 500)


def test_views_give_the_same(calls):
    """Queries, keys and values as parts of one tensor, as an encoder has them."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 600, 3 * 3 * 32).unflatten(-1, (3, 3, 32)).permute(2, 0, 3, 1, 4).unbind()
    torch.testing.assert_close(attention(q, k, v), expected(q, k, v), rtol=1e-5, atol=1e-6)
    assert calls


def test_bfloat16_is_computed_in_float32(calls):
    """So it is closer to the truth than that of PyTorch, within autocast too."""
    q, k, v = (each.bfloat16() for each in example())
    with torch.autocast("cpu", torch.bfloat16):
        ours = attention(q, k, v)
        theirs = expected(q, k, v)
    truth = expected(q.double(), k.double(), v.double())
    assert ours.dtype == torch.bfloat16 and calls
    assert (ours - truth).abs().mean() <= (theirs - truth).abs().mean()


def test_everything_else_is_left_to_pytorch(calls):
    q, k, v = example(keys=500)
    mask = torch.rand(2, 1, 500, 500) < 0.5
    torch.testing.assert_close(attention(q, k, v, mask), expected(q, k, v, attn_mask=mask))
    torch.testing.assert_close(attention(q, k, v, causal=True), expected(q, k, v, is_causal=True))
    attention(q.double(), k.double(), v.double())
    attention(q[:, :, :4], k[:, :, :4], v[:, :, :4])
    y = attention(q.requires_grad_(), k, v)
    torch.autograd.grad(y.sum(), q)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    with torch.no_grad():
        compiled(q, k, v)
    assert not calls
