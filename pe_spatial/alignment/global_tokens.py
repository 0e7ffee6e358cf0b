"""Global tokens: those to which most others attend, wherever they stand in the picture.

In PE-Core-G a few background tokens become such from block 33 on; their features then say little about their place
(Bolya et al., "Perception Encoder", 2025, section 5.1).

Letters: B images, N tokens, H heads, D channels of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pe_spatial.backbones.blocks import Attention
from pe_spatial.backbones.rope import apply_rotary
from pe_spatial.backbones.vit import VisionTransformer

# a token attends to another if it gives it this many times the weight of an even distribution
NOTICEABLE = 4.0


def attended_by(attention: Attention, x: Tensor, rope: Tensor) -> Tensor:
    """Return for every token which part of the others attends to it.

    A token attends to another if the weight that it gives to it, averaged over the heads, is at least `NOTICEABLE` / N.

    Args:
        attention: The layer.
        x: Its input [B, N, C].
        rope: Its rotary table.

    Returns:
        [B, N], 0 to 1.
    """
    qkv = attention.in_proj(x).unflatten(-1, (3, attention.heads, -1))
    q, k, _ = qkv.transpose(1, 3).unbind(2)  # [B, H, N, D]
    q, k = apply_rotary(q, rope).float(), apply_rotary(k, rope).float()
    count = x.shape[1]
    weights = q.new_zeros(len(x), count, count)  # [B, N, N], a head at a time
    for head in range(attention.heads):
        weights += (q[:, head] @ k[:, head].mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    attends = weights / attention.heads >= NOTICEABLE / count
    attends &= ~torch.eye(count, dtype=torch.bool, device=x.device)
    return attends.sum(dim=1) / max(count - 1, 1)


@contextmanager
def watch_global_tokens(encoder: VisionTransformer) -> Iterator[list[Tensor]]:
    """Within the context, count the global tokens of every block that runs.

    The class token is left out: it is global by design. So are blocks with windows, in which no token sees all others.

    Yields:
        A list that grows by one float [B] for every block: the share of an image's patch tokens that more than half of
        all other tokens attend to.
    """
    shares: list[Tensor] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x, rope = arguments[:2]
        if isinstance(module, Attention) and x.ndim == 3:
            popular = attended_by(module, x, rope)[:, int(encoder.has_cls) :] > 0.5
            shares.append(popular.float().mean(dim=1))

    layers = [module for module in encoder.modules() if isinstance(module, Attention)]
    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()
