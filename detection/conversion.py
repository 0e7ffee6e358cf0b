"""Mask R-CNN checkpoints of Detectron2 (`facebook/PE-Detection`) to our `MaskRCNN` and back.

Both sides order classes and anchors alike, with the background class last, so a tensor is renamed and never changed,
but for the position table: [1, N, C] there, [N, C] here. Detectron2 also stores rotary tables, once for the backbone
and again in every block; they follow from the geometry and are dropped one way and computed the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pe_spatial.backbones import rotary_table
from pe_spatial.backbones.weights import Layout, to_official
from pe_spatial.backbones.weights import to_detectron2 as encoder_to_detectron2
from pe_spatial.common.tensors import WeightsError
from pe_spatial.detection.renaming import rename

# prefix there -> prefix here, the encoder apart
_PREFIXES = {
    "backbone.simfp_": "neck.simfp_",
    "proposal_generator.rpn_head.conv.conv": "rpn.head.conv.",
    "proposal_generator.rpn_head.objectness_logits.": "rpn.head.objectness.",
    "proposal_generator.rpn_head.anchor_deltas.": "rpn.head.deltas.",
    "roi_heads.box_head.": "roi_heads.box_head.",
    "roi_heads.box_predictor.": "roi_heads.box_predictor.",
    "roi_heads.mask_head.": "roi_heads.mask_head.",
}
_ENCODER_THERE = "backbone.net."
_ENCODER_HERE = "backbone.encoder."
_CONVERTIBLE = "Mask R-CNN on the simple feature pyramid, with a 2-layer RPN and one box stage,"
_STATISTICS = ("pixel_mean", "pixel_std")


def is_detectron2(keys: Sequence[str]) -> bool:
    """Whether a state dict is that of a Detectron2 detector with this backbone."""
    return any(key.startswith("proposal_generator.") for key in keys)


def is_ours(keys: Sequence[str]) -> bool:
    """Whether a state dict is that of our `MaskRCNN`."""
    return any(key.startswith("rpn.head.") for key in keys) and any(key.startswith(_ENCODER_HERE) for key in keys)


def from_detectron2(
    tensors: Mapping[str, Tensor], class_token: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename the state dict of a Detectron2 detector to that of our `MaskRCNN`.

    Args:
        tensors: The state dict.
        class_token: Whether our encoder has a class token. Windows leave it out and Detectron2 does not store it; it
            and its row of the position table become zeros here, which nothing reads.

    Returns:
        The renamed tensors, and the keys that were dropped, each with the reason.

    Raises:
        WeightsError: Keys without a counterpart.
    """
    encoder_part = {key: tensor for key, tensor in tensors.items() if key.startswith(_ENCODER_THERE)}
    encoder, dropped = to_official(encoder_part, Layout("Detectron2", _ENCODER_THERE))
    dropped |= {key: "pixel statistics, which the config holds" for key in tensors if key in _STATISTICS}
    rest = {key: tensor for key, tensor in tensors.items() if key not in encoder_part and key not in dropped}
    ours = rename(rest, _PREFIXES, _CONVERTIBLE)
    if class_token and "class_embedding" not in encoder:
        table = encoder["positional_embedding"]  # [h * w, C]
        encoder["class_embedding"] = table.new_zeros(table.shape[1])
        encoder["positional_embedding"] = torch.cat([table.new_zeros(1, table.shape[1]), table])
    return {**{_ENCODER_HERE + key: tensor for key, tensor in encoder.items()}, **ours}, dropped


def to_detectron2(
    tensors: Mapping[str, Tensor], geometry: RotaryGeometry | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Inverse of `from_detectron2`.

    Args:
        tensors: State dict of our `MaskRCNN`.
        geometry: For which the rotary buffers are computed; None leaves them out.

    Returns:
        The renamed tensors, and the keys for which Detectron2 has no place, each with the reason.

    Raises:
        WeightsError: Keys without a counterpart, or a geometry for another number of blocks or positions.
    """
    encoder_part = {key: tensor for key, tensor in tensors.items() if key.startswith(_ENCODER_HERE)}
    encoder, dropped = encoder_to_detectron2(
        {key.removeprefix(_ENCODER_HERE): tensor for key, tensor in encoder_part.items()}, _ENCODER_THERE
    )
    rest = {key: tensor for key, tensor in tensors.items() if key not in encoder_part}
    theirs = {**encoder, **rename(rest, {here: there for there, here in _PREFIXES.items()}, _CONVERTIBLE)}
    if geometry is not None:
        theirs |= geometry.buffers(encoder)
    return theirs, {_ENCODER_HERE + key: reason for key, reason in dropped.items()}


@dataclass(frozen=True)
class RotaryGeometry:
    """What fixes the rotary buffers of the Detectron2 backbone.

    The buffer of a grid of n x n patches is [n * n, D], D channels of a head: cos and sin of position x frequency, each
    frequency twice in a row, the column's first, then the row's. Positions are rescaled to the pretraining grid of r
    patches and counted from 1: index / n * r + 1. (Attention sees only differences of positions, so the 1 has no
    effect; it is there because the official buffers have it.)

    Args:
        head_dim: Channels of a head.
        image_size: Side in pixels of the square input.
        window: Side of an attention window in patches.
        global_blocks: Blocks that attend globally.
    """

    head_dim: int
    image_size: int = 1024
    window: int = 32
    global_blocks: tuple[int, ...] = (12, 24, 36, 49)

    def buffers(self, encoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute all buffers for an encoder in Detectron2's names; the blocks share two pairs of tensors.

        Raises:
            WeightsError: a global block that does not exist, or an image size that is no multiple of the patch.
        """
        depth = len({key.split(".")[4] for key in encoder if ".resblocks." in key})
        patch = encoder[_ENCODER_THERE + "conv1.weight"].shape[-1]
        reference = math.isqrt(encoder[_ENCODER_THERE + "positional_embedding"].shape[1])
        if any(not 0 <= block < depth for block in self.global_blocks):
            raise WeightsError(
                f"global blocks {list(self.global_blocks)} do not all exist: the encoder has blocks 0 to {depth - 1}; "
                "give those of the detector's config"
            )
        if self.image_size % patch:
            raise WeightsError(
                f"image size {self.image_size} is not a multiple of the patch size {patch}; give another size"
            )
        windows = _buffers(self.window, self.head_dim, reference)
        everywhere = _buffers(self.image_size // patch, self.head_dim, reference)
        result = _under(_ENCODER_THERE + "rope_win.", windows) | _under(_ENCODER_THERE + "rope_glb.", everywhere)
        for block in range(depth):
            prefix = f"{_ENCODER_THERE}transformer.resblocks.{block}.attn.rope."
            result |= _under(prefix, everywhere if block in self.global_blocks else windows)
        return result


def _buffers(side: int, head_dim: int, reference: int) -> dict[str, Tensor]:
    # with a class token, patches count from 1; its own row is cut off
    table = rotary_table(side, side, head_dim, torch.device("cpu"), reference=reference, cls_token=True)[1:]
    cos, sin = table.repeat_interleave(2, dim=1).unbind(-1)  # each [N, D]
    return {"freqs_cos": cos.contiguous(), "freqs_sin": sin.contiguous()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}
