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


# --- equal shares of the threads --------------------------------------------------------------------------------------
def test_queries_are_apart_where_a_thread_would_get_more_than_its_share():
    apart = module._unbalanced
    assert apart(3, 1025, 2) == 1 and apart(3, 1028, 2) == 4 and apart(3, 1025, 4) == 1
    assert apart(6, 1025, 2) == 0  # three heads for each thread
    assert apart(3, 1024, 2) == apart(3, 1300, 2) == apart(3, 257, 2) == apart(3, 1025, 1) == apart(0, 1025, 2) == 0


@pytest.mark.parametrize(("heads", "rows"), [(3, 1025), (1, 1540), (3, 1024)])
def test_queries_apart_give_the_same(heads, rows, monkeypatch):
    monkeypatch.setattr(linear, "_is_faster_with_onednn", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    q, k, v = torch.randn(rows, 3 * heads * 32).unflatten(-1, (3, heads, 32)).permute(1, 2, 0, 3)[:, None].unbind()
    asked, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *a, **o: asked.append(q.shape[2]) or attend(q, *a, **o)
    )
    with torch.inference_mode():
        made = attention(q, k, v)
    assert asked == ([rows] if rows % 256 == 0 else [rows - rows % 256, rows % 256])
    torch.testing.assert_close(made, expected(q, k, v), rtol=1e-6, atol=1e-6)
    assert made.is_contiguous()


def test_gradients_and_masks_get_all_queries_at_once(monkeypatch):
    monkeypatch.setattr(module, "_unbalanced", lambda *_: pytest.fail("asked"))
    q, k, v = (torch.randn(1, 3, 1025, 8, requires_grad=True) for _ in range(3))
    attention(q, k, v).sum().backward()
    with torch.no_grad():
        attention(q, k, v, mask=torch.ones(1025, 1025, dtype=torch.bool))
        attention(q, k, v, causal=True)
