"""The text tower of PE-Core: a causal transformer over word pieces.

Module names and parameter layouts are those of the official checkpoints.

Letters: B texts, L tokens of a text, C channels of a token, D channels of a feature.
"""

import torch
from torch import Tensor, nn

from pe_spatial.backbones.blocks import Block, Transformer
from pe_spatial.backbones.variants import TextConfig
from pe_spatial.common.errors import OptionError


class TextTower(nn.Module):
    """Maps the tokens of texts to one feature each.

    Args:
        config: Shape of the tower.
        output_dim: D.
    """

    def __init__(self, config: TextConfig, output_dim: int) -> None:
        super().__init__()
        self.text_config = config
        self.positional_embedding = nn.Parameter(torch.zeros(config.context, config.width))
        self.text_projection = nn.Parameter(torch.zeros(config.width, output_dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.transformer = Transformer([Block(config, causal=True) for _ in range(config.depth)])
        self.ln_final = nn.LayerNorm(config.width)
        self.reset_text()

    def reset_text(self) -> None:
        """Draw new weights as CLIP's: all by the width, the branches of the blocks by the depth too; scale 1 / 0.07."""
        width, depth = self.text_config.width, self.text_config.depth
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        nn.init.constant_(self.logit_scale, 2.6592600)  # ln(1 / 0.07)
        deviations = {
            "attn.in_proj_weight": width**-0.5,
            "attn.out_proj.weight": (width * 2 * depth) ** -0.5,
            "mlp.c_fc.weight": (2 * width) ** -0.5,
            "mlp.c_proj.weight": (width * 2 * depth) ** -0.5,
        }
        for name, parameter in self.transformer.resblocks.named_parameters():
            kind = name.partition(".")[2]
            if kind in deviations:
                nn.init.normal_(parameter, std=deviations[kind])
            elif not kind.startswith("ln_"):
                nn.init.zeros_(parameter)

    def text_hidden(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, L], L up to the context, to their states [B, L, C] after the final norm.

        Raises:
            OptionError: More tokens than the context has, or another shape.
        """
        if tokens.ndim != 2 or not 0 < tokens.shape[1] <= self.text_config.context:
            raise OptionError(
                f"tokens {list(tokens.shape)} are not [B, L] with L from 1 to {self.text_config.context}; "
                "cut the texts with `tokenize`"
            )
        x = self.token_embedding(tokens)
        x = x + self.positional_embedding[: tokens.shape[1]].to(x.dtype)
        for block in self.transformer.resblocks:
            x = block(x, None)
        return self.ln_final(x)

    def text_features(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, L] to raw features [B, D]: the projected state at the first end token of each text.

        What follows the last end of the batch is not computed: no token looks ahead.
        """
        ends = tokens.argmax(dim=1)  # the end token has the highest number, and argmax finds the first
        states = self.text_hidden(tokens[:, : int(ends.max()) + 1] if len(tokens) else tokens)
        return states[torch.arange(len(tokens), device=tokens.device), ends] @ self.text_projection
