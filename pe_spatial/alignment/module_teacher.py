"""ModuleTeacher: a frozen encoder of any kind, at a size of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.alignment.summaries import Source
from pe_spatial.alignment.teachers import EncoderTeacher
from pe_spatial.common.errors import OptionError, require_positive


@MODELS.register_module()
class ModuleTeacher(EncoderTeacher):
    """A frozen encoder that keeps the contract of backbones: PE, one of timm, a convnet, one of your own.

    It has its own statistics, patch size and layer. By itself it sees the images at the size of which it makes the
    student's grid of tokens, and is then an `EncoderTeacher`, to the last digit. With `scale` or `image_size` it makes
    a grid of its own, which is reduced to the student's (bicubic, antialiased).

    Args:
        backbone: Config of the encoder, such as `{type: TimmBackbone, model: vit_base_patch16_dinov3, weights: FILE}`;
            its `layers` and `frozen` follow from here.
        layer: See `EncoderTeacher`.
        dtype: See `EncoderTeacher`.
        scale: The grid has so many times the rows and columns of the student's.
        image_size: Side of the square images that it sees, in pixels, whatever the student sees; in place of `scale`.
        resample: Whether a grid that is no whole multiple of the student's is interpolated; it is refused otherwise.

    Raises:
        OptionError: A scale that is no whole number without `resample`, a size that is no multiple of the patch size,
            or both given; or as of `EncoderTeacher`.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        layer: int | float | None = None,
        dtype: str = "float32",
        scale: float = 1,
        image_size: int | None = None,
        resample: bool = False,
    ) -> None:
        super().__init__(layer=layer, dtype=dtype, backbone=backbone)
        require_positive(scale=scale)
        if image_size is not None and scale != 1:
            raise OptionError(
                f"image_size {image_size} and scale {scale} both set the size of the images; give only one"
            )
        if not resample and scale != int(scale):
            raise OptionError(f"scale {scale} is not a whole number; set resample: true to interpolate the maps")
        patch = int(getattr(self.backbone, "patch_size", self.backbone.strides[0]))
        if image_size is not None and image_size % patch:
            raise OptionError(f"image_size {image_size} is not a multiple of the teacher's patch size {patch}")
        self.scale = scale
        self.image_size = image_size
        self.resample = resample

    def forward(self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int]) -> Tensor:
        """See `Teacher.forward`.

        Raises:
            OptionError: A grid that is no multiple of the student's.
        """
        return self._fit(super().forward(inputs, data_samples, self._own(grid)), grid)

    def with_summary(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement], grid: tuple[int, int], source: Source
    ) -> tuple[Tensor, Tensor]:
        """See `EncoderTeacher.with_summary`."""
        features, summary = super().with_summary(inputs, data_samples, self._own(grid), source)
        return self._fit(features, grid), summary

    def _own(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of its own tokens."""
        if self.image_size is not None:
            side = self.image_size // int(self.backbone.strides[0])
            own = (side, side)
        else:
            own = (max(round(grid[0] * self.scale), 1), max(round(grid[1] * self.scale), 1))
        if not self.resample and (own[0] % grid[0] or own[1] % grid[1]):
            raise OptionError(
                f"the teacher makes {own} tokens (rows, columns) and the student {grid}, which do not divide them; "
                f"choose image_size as a multiple of {tuple(int(self.backbone.strides[0]) * side for side in grid)} "
                "pixels, or set resample: true to interpolate"
            )
        return own

    def _fit(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        if tuple(features.shape[2:]) == grid:
            return features
        resized = F.interpolate(features.float(), grid, mode="bicubic", antialias=True, align_corners=False)
        return resized.to(features.dtype)
