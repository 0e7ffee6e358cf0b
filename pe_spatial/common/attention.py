"""Attention, by whichever library of PyTorch is faster on this processor."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.linear import multiply, takes_onednn, wants_gradients

_SCORES = 2**19  # of one head at a time: 2 MB, which stay in the cache
_WIDENED = (torch.float32, torch.bfloat16)  # what is computed in float32


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention.

    On a processor where oneDNN multiplies faster than MKL (see `pe_spatial.common.linear`), without gradients and
    masks, one head after the other is computed by oneDNN, in float32 (bfloat16 too, which is no slower and more exact).

    Args:
        q: Queries [B, H, N, D].
        k: Keys [B, H, M, D].
        v: Values [B, H, M, D].
        mask: bool, broadcast to [B, H, N, M]; True where a query attends to a key.
        causal: A query attends to keys up to its own number only.

    Returns:
        [B, N, H * D].
    """
    if mask is None and not causal and takes_onednn(q, k, _WIDENED) and not wants_gradients(q, k, v):
        return _by_heads(q.float(), k.float(), v.float()).to(q.dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def _by_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, rows, width = q.shape
    made = q.new_empty(batch, rows, heads, width)
    step = max(_SCORES // k.shape[2], 1)
    q = q * width**-0.5
    columns = v.transpose(2, 3).contiguous()
    for image in range(batch):
        for head in range(heads):
            for start in range(0, rows, step):
                scores = multiply(q[image, head, start : start + step], k[image, head])
                made[image, start : start + step, head] = multiply(scores.softmax(-1), columns[image, head])
    return made.flatten(2)
