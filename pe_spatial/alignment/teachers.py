"""Teachers: frozen models that map an image to features on the student's grid of tokens.

Letters: B images; H, W rows and columns of pixels; h, w of tokens; K channels of a teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.alignment.summaries import Source, map_and_summary, require_class_token
from pe_spatial.backbones import EncoderConfig
from pe_spatial.backbones.contract import build_backbone, fit_to_grid, renormalize, sketch
from pe_spatial.backbones.vit import resolve_blocks
from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.data import require_bitmaps


class Teacher(nn.Module):
    """Base of all teachers. A subclass sets `channels` and writes `forward`.

    A teacher is frozen and always in evaluation mode. It is no part of a checkpoint: a run that resumes builds it from
    its config again, so it must come out the same. `SpatialAlignment` calls it without gradient.

    Attributes:
        channels: K, or None where it differs between images. The semantic loss needs a number.
    """

    channels: int | None = None

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """Compute features of the images that the student sees, before any token is hidden.

        Args:
            inputs: [B, 3, H, W], normalized with PE's mean and deviation (0.5).
            data_samples: One per image; see `pe_spatial.data.sample`.
            grid: (h, w) of the student's tokens.

        Returns:
            [B, K, h, w], floating point. The loss takes cosines between its vectors, so their length is free, and
            channels of zeros change nothing: images with fewer channels are filled up with them.
        """
        raise NotImplementedError

    def with_summary(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int], source: Source
    ) -> tuple[Tensor, Tensor]:
        """What `forward` returns, and what stands for the whole images, [B, K].

        Args:
            inputs: See `forward`.
            data_samples: See `forward`.
            grid: See `forward`.
            source: `mean` of the map; other teachers than encoders have nothing else.
        """
        features = self(inputs, data_samples, grid)
        return features, features.mean(dim=(2, 3))

    def require_summary(self, source: Source) -> None:
        """Make sure that `with_summary` takes this source.

        Raises:
            OptionError: It does not.
        """
        if source != "mean":
            raise OptionError(f"{type(self).__name__} has no class token; set summary_source: mean")

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, without gradients."""
        self.requires_grad_(False)
        return super().train(False)


class MaskTeacher(Teacher):
    """Base of teachers that say which tokens belong together: a token's vector holds its logit in each of K masks.

    SAM with a prompt in every cell of a 32x32 grid gives K = 1024; the instances of a synthetic scene give one mask
    each. A teacher whose maps were computed before reads them from `data_samples[i].mask_logits.data`, [K, h, w]: the
    pipeline loads them as the sample's `mask_logits` (a `TokenMap`), so that they are flipped and cropped with the
    image.
    """


@MODELS.register_module()
class EncoderTeacher(Teacher):
    """A frozen encoder, such as PE-Spatial-G for a smaller student.

    An encoder of another patch size sees the image resized to the student's grid of tokens: a student with patches of
    16 at 512 pixels and a teacher with patches of 14 at 448 share 32x32 tokens.

    Args:
        variant: See `PEBackbone`; None if `backbone` is given.
        weights: An official name or a file; None draws random weights.
        backbone: Config of any other backbone, such as `{type: TimmBackbone, model: vit_base_patch16_dinov3, weights:
            FILE}`; its `layers` and `frozen` follow from here. The images are normalized as it asks.
        layer: Block whose output is taken: a number from 0 (or from the end if negative), or a fraction of the depth.
            None takes `default_layer`, the last block.
        dtype: Of weights and arithmetic, `float32` or `bfloat16`, which halves the teacher's memory.

    Raises:
        OptionError: A fraction outside (0, 1], an unknown type, or not one of `variant` and `backbone`.
    """

    default_layer: int | float = -1

    def __init__(
        self,
        variant: str | EncoderConfig | Mapping[str, Any] | None = None,
        weights: str | None = None,
        layer: int | float | None = None,
        dtype: str = "float32",
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_choice("dtype", dtype, ("float32", "bfloat16"))
        if (variant is None) == (backbone is None) or (backbone is not None and weights is not None):
            raise OptionError("a teacher is a variant with weights, or a backbone with its own weights: give one")
        settings = backbone or {"type": "PEBackbone", "variant": variant, "weights": weights}
        number = block_number(self.default_layer if layer is None else layer, sketch(settings).depth)
        encoder = build_backbone({**settings, "layers": [number], "frozen": True}, type(self).__name__, maps=1)
        self.channels = encoder.channels[0]
        if hasattr(encoder, "drop_unused"):
            encoder.drop_unused()
        self.backbone = encoder.to(getattr(torch, dtype))
        self.train()

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`; K is the width of the encoder."""
        return self.backbone(self._prepared(inputs, grid))[0]

    def with_summary(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int], source: Source
    ) -> tuple[Tensor, Tensor]:
        """See `Teacher.with_summary`; `source` may be `cls` where the encoder has a class token."""
        return map_and_summary(self.backbone, self._prepared(inputs, grid), source)

    def require_summary(self, source: Source) -> None:
        """See `Teacher.require_summary`."""
        if source == "cls":
            require_class_token(self.backbone, type(self).__name__)

    def _prepared(self, inputs: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images of which the encoder makes a grid, normalized and of the type that it takes."""
        images = renormalize(fit_to_grid(inputs, grid, self.backbone.strides[0]), None, self.backbone)
        return images.to(next(self.backbone.parameters()).dtype)


@MODELS.register_module()
class LayerTeacher(EncoderTeacher):
    """A frozen copy of the model that the student starts from, read at a layer whose tokens still mean what they show.

    The paper takes block 41 of PE-Core-G's 50, counted from 1, which is the default fraction of 0.82; the authors say
    that any near it would do.

    Args:
        variant: Of the initial model, not of the student, which may have LayerScale on top.
        weights: Those that the student starts from.
        layer: See `EncoderTeacher`; None takes 0.82 of the depth.
        dtype: See `EncoderTeacher`.
    """

    default_layer = 0.82


@MODELS.register_module()
class CachedMaskTeacher(MaskTeacher):
    """Maps that were computed once and that the pipeline has loaded as `mask_logits`; see tools/cache_teacher.py."""

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`.

        Raises:
            OptionError: A sample without maps.
        """
        for sample in data_samples:
            if "mask_logits" not in sample:
                raise OptionError(
                    f"{sample.get('img_path')}: CachedMaskTeacher needs mask_logits; load them in the pipeline from "
                    "what tools/cache_teacher.py wrote"
                )
        return _stack([sample.mask_logits.data.to(inputs.device) for sample in data_samples])


@MODELS.register_module()
class InstanceMaskTeacher(MaskTeacher):
    """The exact masks of annotated instances, as if a perfect segmenter had answered a prompt in every cell.

    A prompt yields +1 inside the segment that it hits and -1 outside; a token that a segment covers in part lies
    between. Prompts on one segment give the same mask, so there is one channel per segment, weighted by the root of the
    number of its prompts: the cosines are those of all prompts. What no instance covers is one more segment.
    """

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`; K is the largest number of instances in the batch, and one.

        Raises:
            OptionError: A sample without `gt_instances.masks`.
        """
        size = (inputs.shape[-2], inputs.shape[-1])
        return _stack([self._logits(_masks(sample, size).to(inputs.device), grid) for sample in data_samples])

    def _logits(self, masks: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, H, W] bool to [N + 1, h, w]."""
        segments = torch.cat((masks, ~masks.any(dim=0, keepdim=True)))  # [N + 1, H, W]
        cover = F.adaptive_avg_pool2d(segments.float(), grid)  # [N + 1, h, w]
        rows, columns = (
            ((torch.arange(cells, device=masks.device) + 0.5) * side / cells).long()
            for cells, side in zip(grid, masks.shape[1:], strict=True)
        )
        prompts = segments[:, rows[:, None], columns].sum(dim=(1, 2))  # [N + 1]
        return (2 * cover - 1) * prompts.sqrt()[:, None, None]


def block_number(layer: int | float, depth: int) -> int:
    """Turn a layer of a config into the number of a block from 0.

    Args:
        layer: A number from 0, or from the end if negative; or a fraction of the depth: 0.82 of 50 is block 41 counted
            from 1, so 40.
        depth: Blocks of the encoder.

    Raises:
        OptionError: A fraction outside (0, 1], or a block that does not exist.
    """
    if isinstance(layer, float):
        if not 0 < layer <= 1:
            raise OptionError(
                f"layer {layer} is not a fraction of the depth in (0, 1]; write a block as a whole number"
            )
        return max(round(layer * depth), 1) - 1
    return resolve_blocks([layer], depth)[0]


def _stack(maps: Sequence[Tensor]) -> Tensor:
    """Maps [K, h, w] as one [B, K, h, w], filled up with channels of zeros."""
    channels = max(len(logits) for logits in maps)
    return torch.stack([F.pad(logits, (0, 0, 0, 0, 0, channels - len(logits))) for logits in maps])


def _masks(sample: BaseDataElement, size: tuple[int, int]) -> Tensor:
    """The masks of a sample, padded like its image."""
    if "gt_instances" not in sample or "masks" not in sample.gt_instances:
        raise OptionError(
            f"{sample.get('img_path')}: InstanceMaskTeacher needs gt_instances.masks; put LoadInstances with masks "
            "into the pipeline, or use another teacher"
        )
    masks = require_bitmaps(sample.gt_instances, sample.get("img_path"), "InstanceMaskTeacher")
    return F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))
