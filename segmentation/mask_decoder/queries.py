"""Queries among the tokens of an encoder's last blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.backbones.token_blocks import token_blocks
from pe_spatial.common.errors import OptionError


class QueryTokens(nn.Module):
    """Learned queries that take part in the attention of an encoder's last blocks like any other token.

    The order of tokens is queries, class token (where the encoder has one), patches. Queries and class token have no
    place in the image: their rotary angle is 0, the identity.

    Args:
        encoder: Whose blocks are used, or its backbone; see `pe_spatial.backbones.token_blocks`. It is not kept.
        count: Q.
        blocks: How many of the last blocks.

    Raises:
        OptionError: No query; no block, or all; or windowed attention in one of the blocks.
    """

    def __init__(self, encoder: nn.Module, count: int, blocks: int) -> None:
        super().__init__()
        blocks_of = token_blocks(encoder)
        depth = blocks_of.depth
        if count < 1:
            raise OptionError(f"num_queries {count} is not positive; EoMT uses 100 for semantic masks, 200 for objects")
        if not 0 < blocks < depth:
            raise OptionError(
                f"num_blocks {blocks} must be from 1 to {depth - 1}, because the encoder has {depth} blocks"
            )
        if any(blocks_of.is_windowed(block) for block in range(depth - blocks, depth)):
            raise OptionError(
                f"one of the last {blocks} blocks uses attention in windows, which queries cannot join; add these "
                "blocks to global_blocks of the backbone"
            )
        self.count = count
        self.first = depth - blocks
        self.tokens = nn.Parameter(torch.randn(count, blocks_of.width))

    def rope(self, encoder: nn.Module, grid: tuple[int, int], device: torch.device) -> Tensor | None:
        """What the blocks need of the places of all tokens: a rotary table, where the encoder has one."""
        return token_blocks(encoder).places(grid, self.count, device)

    def join(self, encoder: nn.Module, inputs: Tensor) -> Tensor:
        """Tokens [B, N, C] before the first of the blocks."""
        tokens = token_blocks(encoder).before(inputs, self.first)
        queries = self.tokens.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return torch.cat([queries, tokens], dim=1)

    def split(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Queries [B, Q, C] and patches [B, h * w, C] among all tokens; the class token is left out."""
        return tokens[:, : self.count], tokens[:, -grid[0] * grid[1] :]


@torch.no_grad()
def attention_mask(logits: Tensor, grid: tuple[int, int], tokens: int, probability: float) -> Tensor | None:
    """Which token attends to which when queries look only into their own masks.

    A query whose mask is empty attends everywhere, and so does each query with 1 - `probability`, independently. All
    other tokens attend everywhere, and queries to all tokens that are not patches.

    Args:
        logits: Masks [B, Q, h', w'] that the queries have so far.
        grid: (h, w) of the patches, the last h * w of the tokens; the queries are the first Q.
        tokens: N.
        probability: Of a query to be masked.

    Returns:
        bool [B, 1, N, N], or None if no query is masked.
    """
    if probability <= 0:
        return None
    inside = F.interpolate(logits.float(), grid, mode="bilinear", align_corners=False).flatten(2) > 0  # [B, Q, h * w]
    free = torch.rand(inside.shape[:2], device=logits.device) >= probability
    inside |= (free | ~inside.any(2))[:, :, None]
    mask = logits.new_ones(len(logits), 1, tokens, tokens, dtype=torch.bool)
    mask[:, 0, : inside.shape[1], -inside.shape[2] :] = inside
    return mask


def masking_probabilities(progress: float, blocks: int, power: float = 0.9) -> Sequence[float]:
    """How often queries are masked in each block, by the schedule of EoMT.

    The run is cut into blocks + 2 equal parts. All queries are masked in the first; in part n + 2 the probability of
    block n falls from 1 to 0 as (1 - progress within the part) ** power; in the last no query is masked any more.

    Args:
        progress: Share of the training that is done, 0…1.
        blocks: Number of blocks.
        power: Of the fall.
    """
    parts = progress * (blocks + 2)
    return [max(0.0, min(1.0, 2 + block - parts)) ** power for block in range(blocks)]
