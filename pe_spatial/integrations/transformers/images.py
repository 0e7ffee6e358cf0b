"""The image processor of an encoder."""

from typing import Any

from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling

from pe_spatial.integrations.transformers.config import PEConfig, side_pair


def image_processor(config: PEConfig) -> Any:  # noqa: ANN401 - its class depends on the release of transformers
    """A `ViTImageProcessor` with the preprocessing of the encoders: resized to `config.image_size`, values in [-1, 1].

    Its pixels are those of torchvision's antialiased bilinear `Resize` of an uint8 tensor and of `DensePreprocessor`.
    The aspect ratio is not kept; call it with `do_resize=False`, or with another `size`, for images that are prepared
    in another way. What it saves is read by `AutoImageProcessor` without this package.

    Args:
        config: Of the backbone.
    """
    height, width = side_pair(config.image_size)
    return ViTImageProcessor(
        size={"height": height, "width": width},
        resample=PILImageResampling.BILINEAR,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_convert_rgb=True,
    )
