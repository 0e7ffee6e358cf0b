"""Attention, by whichever library of PyTorch is faster on this processor."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.linear import multiply, prefers_onednn, takes_onednn

_SCORES = 2**19  # of one head at a time: 2 MB, which stay in the cache


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
    if mask is None and not causal and not torch.compiler.is_compiling() and _infers(q, k, v):
        with torch.autocast("cpu", enabled=False):
            wide = [each.float() if each.dtype == torch.bfloat16 else each for each in (q, k, v)]
            if takes_onednn(*wide[:2]):
                return _by_heads(*wide).to(q.dtype)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def _infers(*tensors: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    return prefers_onednn() and tensors[0].device.type == "cpu" and not wanted


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
