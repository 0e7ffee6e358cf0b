"""Tokens that are hidden from the student, and what stands in their place."""

from collections.abc import Sequence

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.alignment.options import Fill
from pe_spatial.common.errors import ConfigError


def hidden_tokens(
    data_samples: Sequence[BaseDataElement], grid: tuple[int, int], cell: int, resample: bool = False
) -> Tensor | None:
    """Which tokens of a batch are hidden, bool [B, 1, h, w]; None without masks.

    Args:
        data_samples: Optionally with `token_mask`; see `HideTokens`.
        grid: (h, w) of the student's tokens.
        cell: Side of a token in pixels of the batch, for the message.
        resample: Fit masks of another grid, for images whose size changes from step to step.

    Raises:
        ConfigError: A mask on another grid.
    """
    if not all("token_mask" in sample for sample in data_samples):
        return None
    hidden = torch.stack([sample.token_mask.data for sample in data_samples])
    if resample:
        hidden = F.interpolate(hidden.float(), grid, mode="nearest-exact").bool()
    if tuple(hidden.shape[2:]) != grid:
        raise ConfigError(
            f"token_mask has {tuple(hidden.shape[2:])} tokens (rows, columns) and the student {grid}; set "
            f"patch_size {cell} in HideTokens, after the last resize"
        )
    return hidden


def fill_hidden(
    images: Tensor, hidden: Tensor | None, patch_size: int, fill: Fill, learned: Tensor | None = None
) -> Tensor:
    """Images [B, 3, H, W] with something else in the place of hidden patches.

    Args:
        images: Normalized.
        hidden: Bool [B, 1, h, w]; None hides nothing.
        patch_size: In pixels.
        fill: See `SpatialAlignment`.
        learned: The patch [3, patch_size, patch_size] of the fill `learned`.
    """
    if hidden is None:
        return images
    hidden = hidden.to(images.device)
    mask = hidden.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)  # [B, 1, H, W]
    if learned is not None:
        return torch.where(mask, learned.repeat(1, *hidden.shape[2:]), images)
    color = images.mean(dim=(2, 3), keepdim=True) if fill == "mean" else images.new_zeros(())
    return torch.where(mask, color, images)
