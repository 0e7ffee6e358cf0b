"""MaskLogitTeacher: what SAM 2.1 says about every point of a grid, as one map of features.

A point prompt stands on the center of every patch; SAM answers each with the logits of a mask. Downsampled to the
patch grid and stacked, the logits are a feature map: the vector of a patch says, for every prompt, how surely the patch
belongs to the prompt's segment, so that patches of one segment have similar vectors. Only the cosines between patches
are learned from. They do not change when the channels are permuted (flipping an image only renumbers its prompts) or
rotated.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.alignment.teachers import MaskTeacher
from pe_spatial.backbones.sam2_model import build_sam2, find_sam2_weights
from pe_spatial.common.errors import OptionError, require_choice, require_positive

Kept = Literal["stable", "best", "single"]
Interpolation = Literal["area", "bilinear"]


@MODELS.register_module()
class MaskLogitTeacher(MaskTeacher):
    """SAM 2.1 as the frozen teacher of locality; needs the package `sam2`.

    The paper leaves open which of SAM's masks it kept and how it resized them. The defaults here are reasoned:
    `kept="stable"` is the one way in which SAM 2's own automatic generator gives exactly one mask for a point (1,024
    points, 1,024 channels), and the thresholds that the paper quotes are that generator's. `interpolation="area"` lets
    every logit of a patch count. `clamp=32` is SAM 2's own range for logits that are used again; it keeps one surely
    rejected patch from ruling a cosine, and gives a cache a known range.

    Args:
        weights: A `sam2.1_hiera_*.pt` file; None looks for the official name in the folder PE_SPATIAL_WEIGHTS; "random"
            draws them (always the same), to try the code.
        size: `tiny`, `small`, `base_plus` or `large`.
        kept: `single`, the mask token for single answers; `best`, of the three masks for ambiguous prompts the one with
            the highest predicted IoU; `stable`, the single mask where it hardly changes with the threshold, else the
            best.
        interpolation: From SAM's logits (a quarter of `image_size`) to the grid: the mean over a patch (`area`), or the
            value at its center (`bilinear`).
        clamp: Logits are first limited to ±clamp; None leaves them.
        image_size: Side of the square that SAM sees. It was trained at 1024.
        prompts_per_batch: Prompts decoded at once; changes time and memory only.

    Raises:
        OptionError: An option or a size of SAM that does not exist.
        FileNotFoundError: No weights; says what to fetch and where to put it.
        ModuleNotFoundError: `sam2` is not installed.
    """

    statistics: Tensor

    def __init__(
        self,
        weights: str | None = None,
        size: str = "large",
        kept: Kept = "stable",
        interpolation: Interpolation = "area",
        clamp: float | None = 32.0,
        image_size: int = 1024,
        prompts_per_batch: int = 64,
    ) -> None:
        super().__init__()
        require_choice("kept", kept, get_args(Kept))
        require_choice("interpolation", interpolation, get_args(Interpolation))
        if clamp is not None and not clamp > 0:
            raise OptionError(f"clamp {clamp} is not a positive logit; None leaves the logits as they are")
        require_positive(prompts_per_batch=prompts_per_batch)
        self.kept = kept
        self.interpolation = interpolation
        self.clamp = clamp
        self.prompts_per_batch = prompts_per_batch
        self.image_size = image_size
        self.size = size
        self.sam: Any = _build(size, weights, image_size)
        self.sam.sam_mask_decoder.dynamic_multimask_via_stability = kept == "stable"
        statistics = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])  # ImageNet's, which SAM 2 expects
        self.register_buffer("statistics", statistics.view(2, 1, 3, 1, 1), persistent=False)
        self.train(False)

    def describe(self) -> dict[str, Any]:
        """Everything that its maps depend on, as JSON: the options and a hash of SAM's weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.sam.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        options = {name: getattr(self, name) for name in ("size", "image_size", "kept", "interpolation", "clamp")}
        return {"teacher": "SAM 2.1", **options, "weights_sha256": digest.hexdigest()}

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher`. Channel k of the K = h·w belongs to the prompt on token k, counted row by row."""
        side = self.image_size
        if min(grid) < 1 or max(grid) > side // 4:
            raise OptionError(
                f"grid {grid} of tokens is not between 1 and the {side // 4} logits that SAM gives per side at "
                f"image_size {side}"
            )
        pixels = F.interpolate(inputs.float(), (side, side), mode="bilinear", antialias=True)
        pixels = (pixels / 2 + 0.5 - self.statistics[0]) / self.statistics[1]
        return torch.stack([self._answers(image[None], grid) for image in pixels])

    def _answers(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Maps [K, h, w] of one image [1, 3, S, S]: one embedding, prompts in batches."""
        *details, embedding = self.sam.forward_image(pixels)["backbone_fpn"]
        embedding = embedding + self.sam.no_mem_embed.view(1, -1, 1, 1)
        points = self._points(grid).split(self.prompts_per_batch)
        return torch.cat([self._downsample(self._decode(embedding, details, batch), grid) for batch in points])

    def _points(self, grid: tuple[int, int]) -> Tensor:
        """Centers (x, y) of the tokens [K, 2], in pixels of SAM's square, row by row."""
        rows, columns = ((torch.arange(side) + 0.5) / side for side in grid)
        return torch.cartesian_prod(rows, columns).flip(1).to(self.statistics) * self.image_size

    def _decode(self, embedding: Tensor, details: list[Tensor], points: Tensor) -> Tensor:
        """Logits [n, 1, S/4, S/4] of the mask that is kept for each of the points [n, 2]."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        encoder = self.sam.sam_prompt_encoder
        sparse, dense = encoder(points=(points[:, None], labels), boxes=None, masks=None)
        logits, quality, _, _ = self.sam.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.kept == "best",
            repeat_image=True,
            high_res_features=details,
        )  # [n, 1 or 3, S/4, S/4], [n, 1 or 3]
        return logits[torch.arange(len(points), device=points.device), quality.argmax(1)][:, None].float()

    def _downsample(self, logits: Tensor, grid: tuple[int, int]) -> Tensor:
        # never upsampled to the size of the image first, as SAM does: that takes 16 times the memory
        if self.clamp is not None:
            logits = logits.clamp(-self.clamp, self.clamp)
        return F.interpolate(logits, grid, mode=self.interpolation)[:, 0]  # [n, h, w]


def _build(size: str, weights: str | Path | None, image_size: int) -> Any:
    if weights != "random":
        return build_sam2(size, find_sam2_weights(size, weights), image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_sam2(size, None, image_size)
