"""Resizing that keeps the aspect ratio, to the pixel as in the official evaluations; torchvision's own truncates.

The sizes are functions of their own, so that tables can be held against them. No side ever becomes 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError, require_choice, require_positive
from pe_spatial.common.pictures import resize_picture
from pe_spatial.common.sizes import Rounding, fitted_size


def jittered_size(image: tuple[int, int], target: tuple[int, int], scale: float) -> tuple[int, int]:
    """The size (H, W) of an image that fits into `scale` times a target of (H, W): Detectron2's `ResizeScale`.

    Both sides are rounded to the nearest pixel, halves to the even one, and are at least one.
    """
    factor = min(side * scale / old for side, old in zip(target, image, strict=True))
    height, width = (max(round(side * factor), 1) for side in image)
    return height, width


class _Resizing(v2.Transform):
    """A resize to the `size` (H, W) that `make_params` of a subclass finds for the sample.

    Images are resized by Pillow, as the official pipelines do it: bilinear and antialiased. torchvision's kernel for
    tensors is faster, but a pixel in a hundred comes out a gray level away, and some two.
    """

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one tensor of the sample; masks and label maps by the nearest pixel."""
        is_picture = isinstance(inpt, tv_tensors.Image) and inpt.dtype == torch.uint8 and inpt.shape[:-2] == (3,)
        if not is_picture or list(inpt.shape[-2:]) == params["size"]:
            return F.resize(inpt, **params)
        return tv_tensors.wrap(resize_picture(inpt, params["size"]), like=inpt)


@TRANSFORMS.register_module()
class KeepRatioResize(_Resizing):
    """Resize by the shorter side, the longer side or both; boxes, masks and maps of the sample go along.

    Args:
        size: Of the shorter side in pixels; None resizes by the longer one alone.
        max_size: The longer side is at most that; see `fitted_size`.
        rounding: See `fitted_size`: `half_up` is Detectron2's, `floor_long` DETA's.
        limit: Of the longer side where `floor_long` leaves more than `max_size`, as it does for thin images; the canvas
            of the model, on which the official DETA stops with an error.
        enlarge: False leaves images as they are that are smaller already.

    Raises:
        OptionError: Neither of the sizes, one below a pixel, or another order than size, max_size, limit.
    """

    def __init__(
        self,
        size: int | None = None,
        max_size: int | None = None,
        rounding: Rounding = "half_up",
        limit: int | None = None,
        enlarge: bool = True,
    ) -> None:
        super().__init__()
        require_choice("rounding", rounding, ("half_up", "floor_long"))
        given = [value for value in (size, max_size, limit) if value is not None]
        whole = all(type(value) is int and value > 0 for value in given)
        if (size is None and max_size is None) or not whole or given != sorted(given):
            raise OptionError(
                f"size {size}, max_size {max_size}, limit {limit}: give size (of the shorter side), max_size (of the "
                "longer side) or both, in whole pixels, each at most as large as the next"
            )
        self.size = size
        self.max_size = max_size
        self.rounding: Rounding = rounding
        self.limit = limit
        self.enlarge = enlarge

    def output_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """The size (H, W) that an image of (H, W) is resized to."""
        size = self.size if self.size is not None else self.max_size
        assert size is not None
        height, width = fitted_size(image, size, self.max_size, self.rounding)
        if not self.enlarge and max(height, width) >= max(image):
            height, width = image
        return (height, width) if self.limit is None else (min(height, self.limit), min(width, self.limit))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One size for everything in the sample."""
        height, width = v2.query_size(flat_inputs)
        return {"size": list(self.output_size((height, width)))}


@TRANSFORMS.register_module()
class ScaleJitter(_Resizing):
    """Large-scale jitter: resize the image to fit into a target of random scale, as Detectron2's `ResizeScale` does.

    Args:
        target_size: (H, W) in pixels at scale 1.
        scale_range: Of the scale, which is uniform.

    Raises:
        OptionError: A target that is no size, or no rising positive scales.
    """

    def __init__(self, target_size: Sequence[int], scale_range: Sequence[float] = (0.1, 2.0)) -> None:
        super().__init__()
        if len(target_size) != 2:
            raise OptionError(f"target_size {list(target_size)} is not (H, W) in pixels")
        require_positive(height=target_size[0], width=target_size[1])
        if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1]:
            raise OptionError(f"scale_range {list(scale_range)} must be two increasing positive factors")
        self.target_size = (int(target_size[0]), int(target_size[1]))
        self.scale_range = (float(scale_range[0]), float(scale_range[1]))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """One size for everything in the sample."""
        height, width = v2.query_size(flat_inputs)
        least, most = self.scale_range
        scale = least + float(torch.rand(())) * (most - least)
        return {"size": list(jittered_size((height, width), self.target_size, scale))}
