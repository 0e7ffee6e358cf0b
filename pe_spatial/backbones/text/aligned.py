"""TextAlignedMap: a feature of every patch of a picture that can be compared with words.

Letters: B pictures, M masks, N patches, C channels of a token, D of a feature; h, w rows and columns of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.backbones.blocks import AttentionPool
from pe_spatial.backbones.contract import fit_to_grid, renormalize
from pe_spatial.backbones.text.affinity import BETA, GAMMA, check_affinity_options, proxy_affinity
from pe_spatial.backbones.text.core import PECore
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import OptionError
from pe_spatial.common.linear import linear

Affinity = int | Mapping[str, Any] | nn.Module


@MODELS.register_module()
class TextAlignedMap(nn.Module):
    """PE-Core's pooling, asked about one patch at a time.

    The projection of PE-Core was trained on what the MLP of its pooling gives, so a patch has to pass through both:

        v = W_v ln_post(t) + b_v                 the value of a token t of the last block
        v = A v                                  with an affinity A: mixed with the values of related patches
        z = W_o v + b_o
        f = (z + MLP(LN(z))) proj                what can be compared with a text

    The first, third and fourth lines are the official pooling of a single token, whose attention is 1 whatever the
    probe asks. The feature of a whole picture is the same function of the mean of the values that its attention weighs.
    The second line is ProxyCLIP's (Lan et al., 2024).

    Args:
        core: A PE-Core, or the arguments `variant` and `weights` of one.
        affinity: Where A comes from. None: no mixing. A number: the tokens of that block of PE-Core itself, from 0, or
            from the end if negative. The config of a backbone with one map, such as
            `{type: PEBackbone, variant: PE-Spatial-L14-448, weights: PE-Spatial-L14-448}`, or such a module: its
            tokens of the same picture, which is resized so that both encoders have as many patches. A map that is finer
            makes the features as fine.
        beta: See `proxy_affinity`.
        gamma: See `proxy_affinity`.
        batch_mean: See `proxy_affinity`.

    Attributes:
        core: The PE-Core, whose text tower gives the features of words.

    Raises:
        OptionError: An encoder without a text tower, a block that does not exist, a backbone with several maps or
            without a patch size, or `beta` or `gamma` outside their range.
    """

    def __init__(
        self,
        core: PECore | Mapping[str, Any],
        affinity: Affinity | None = None,
        beta: float = BETA,
        gamma: float = GAMMA,
        batch_mean: bool = False,
    ) -> None:
        super().__init__()
        check_affinity_options(beta, gamma)
        self.core = core if isinstance(core, PECore) else PECore(**core)
        self.beta, self.gamma, self.batch_mean = beta, gamma, batch_mean
        self.block: int | None = None
        self.proxy: Any = None  # a module; its attributes are those of the contract of backbones
        if isinstance(affinity, int):
            self.block = resolve_blocks([affinity], self.core.config.depth)[0]
        elif affinity is not None:
            self.proxy = affinity if isinstance(affinity, nn.Module) else MODELS.build(dict(affinity))
            _check_proxy(self.proxy)
        self.requires_grad_(False).eval()

    @property
    def patch_size(self) -> int:
        """H and W of pictures are multiples of it."""
        return self.core.config.patch_size

    @property
    def output_dim(self) -> int:
        """D."""
        return self.core.output_dim

    def train(self, mode: bool = True) -> TextAlignedMap:
        """Stay in evaluation mode: nothing here is trained."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized pictures [B, 3, H, W] to features [B, D, h, w], not normalized.

        Raises:
            OptionError: H or W is not a multiple of the patch size, or the encoder of the affinity refuses the size.
        """
        grid = self.core.visual.grid(images)
        tokens, related = self._tokens(images)
        values = _values(self.pool, tokens)
        if self.proxy is not None:
            related = self._proxy_map(images, grid)
            finer = (related.shape[-2], related.shape[-1])
            values, grid = _resized(values, grid, finer), finer
            related = related.flatten(2).transpose(1, 2)
        if related is not None:
            weights = proxy_affinity(related, self.beta, self.gamma, self.batch_mean)
            values = weights.to(values.dtype) @ values
        return self._project(values).transpose(1, 2).unflatten(2, grid)

    def of_masks(self, images: Tensor, masks: Tensor) -> Tensor:
        """One feature for each mask: PE-Core's pooling, whose attention sees the patches under the mask alone.

        A mask of everything gives what the pooling of all patches gives. The class token, where there is one, is left
        out: it has seen the whole picture. A patch that is covered in part weighs so much less.

        Args:
            images: Normalized [B, 3, H, W].
            masks: Bool or float [B, M, H, W], in the pixels of `images`.

        Returns:
            [B, M, D], not normalized. A mask of nothing gives that of the whole picture.
        """
        grid = self.core.visual.grid(images)
        tokens = self._tokens(images)[0]
        cover = F.adaptive_avg_pool2d(masks.to(tokens.dtype), grid).flatten(2)  # [B, M, N]
        cover = torch.where(cover.sum(dim=-1, keepdim=True) > 0, cover, torch.ones_like(cover))
        heads = self.pool.attn.num_heads
        bias = cover.log().repeat_interleave(heads, dim=0)  # [B heads, M, N]
        probe = self.pool.probe.expand(*cover.shape[:2], -1)
        pooled = self.pool.attn(probe, tokens, tokens, attn_mask=bias, need_weights=False)[0]
        return self._after_attention(pooled)

    @property
    def pool(self) -> AttentionPool:
        """PE-Core's own."""
        pool = self.core.visual.attn_pool
        if pool is None:
            raise OptionError(f"{self.core.config.name} has no attention pooling")  # PECore refuses it before
        return pool

    def _tokens(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The patches [B, N, C] after the final norm, and those of the block of the affinity, if it is one."""
        visual = self.core.visual
        wanted = [-1] if self.block is None else [-1, self.block]
        last, *related = (tokens[:, int(visual.has_cls) :] for tokens in visual.forward_features(images, wanted))
        return last if visual.ln_post is None else visual.ln_post(last), related[0] if related else None

    def _project(self, values: Tensor) -> Tensor:
        """Values [B, N, C] to features [B, N, D]."""
        return self._after_attention(self.pool.attn.out_proj(values))

    def _after_attention(self, z: Tensor) -> Tensor:
        return (z + self.pool.mlp(self.pool.layernorm(z))) @ self.core.visual.proj

    def _proxy_map(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """The map [B, C, h, w] of the other encoder, with its own normalization of the pixels."""
        images = fit_to_grid(images, grid, self.proxy.patch_size)
        return self.proxy(renormalize(images, None, self.proxy))[0]


def _values(pool: AttentionPool, tokens: Tensor) -> Tensor:
    """The values [B, N, C] of a pooling's attention, all heads side by side."""
    width = tokens.shape[-1]
    return linear(tokens, pool.attn.in_proj_weight[2 * width :], pool.attn.in_proj_bias[2 * width :])


def _resized(values: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Values [B, N, C] of a grid on another one, by bilinear interpolation."""
    if grid == target:
        return values
    square = values.transpose(1, 2).unflatten(2, grid)
    return F.interpolate(square, target, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def _check_proxy(proxy: Any) -> None:  # noqa: ANN401 - its attributes are asked for
    name = type(proxy).__name__
    if not hasattr(proxy, "patch_size") or not hasattr(proxy, "channels"):
        raise OptionError(
            f"affinity: {name} has no patch_size or no channels, so pictures cannot be resized for it; use "
            "a PEBackbone or a TimmBackbone"
        )
    if len(proxy.channels) != 1:
        raise OptionError(f"affinity: {name} gives {len(proxy.channels)} maps; choose one, such as layers: [-1]")
