"""Attention, by whichever library of PyTorch is faster on this processor."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pe_spatial.common.linear import is_watched, multiply, takes_onednn, wants_gradients

_SCORES = 2**19  # of one head at a time: 2 MB, which stay in the cache
_BLOCK, _BLOCKS_FROM = 256, 768  # queries that PyTorch computes at a time on a CPU, if there are so many
_FEW = 8  # queries that take no time worth a share
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
    is_plain = mask is None and not causal and not wants_gradients(q, k, v)
    if is_plain and takes_onednn(q, k, _WIDENED):
        return _by_heads(q.float(), k.float(), v.float()).to(q.dtype)
    if is_plain and (rest := _queries_apart(q)):  # the same numbers
        parts = [F.scaled_dot_product_attention(part, k, v) for part in q.split((q.shape[2] - rest, rest), dim=2)]
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).flatten(2)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return y.transpose(1, 2).flatten(2)


def _queries_apart(q: Tensor) -> int:
    """How many of the last queries to compute by themselves: 0 where this gains nothing."""
    if torch.compiler.is_compiling() or q.device.type != "cpu" or q.dtype != torch.float32 or is_watched():
        return 0
    return _unbalanced(q.shape[0] * q.shape[1], q.shape[2], torch.get_num_threads())


@cache
def _unbalanced(heads: int, rows: int, threads: int) -> int:
    """The queries of the last block of each head, if they keep a thread from getting its share.

    PyTorch divides the blocks of all heads among the threads by their number. A block of one class token counts as much
    as a whole one: of three heads of 1025 queries, one of two threads gets 7 whole blocks and the other 5.
    """
    whole, rest = divmod(rows, _BLOCK)
    if not heads or rows < _BLOCKS_FROM or not 0 < rest <= _FEW:
        return 0
    blocks = heads * [*whole * [_BLOCK], rest]
    share = -(-len(blocks) // threads)
    busiest = max(sum(blocks[first : first + share]) for first in range(0, len(blocks), share))
    return rest if busiest > 1.05 * _BLOCK * -(-heads * whole // threads) else 0


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
