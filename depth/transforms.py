"""Transforms of depth estimation that torchvision lacks. torchvision moves depth with nearest resampling by itself."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import TRANSFORMS
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError


@TRANSFORMS.register_module()
class CropRegion(v2.Transform):
    """Crop a fixed region: the part of NYUv2 without its white frame is [43, 45, 608, 472].

    Args:
        region: [x1, y1, x2, y2] in pixels, x2 and y2 outside.
    """

    def __init__(self, region: Sequence[int]) -> None:
        super().__init__()
        x1, y1, x2, y2 = region
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise OptionError(f"region {list(region)} is not [x1, y1, x2, y2] with 0 <= x1 < x2 and 0 <= y1 < y2")
        self.region = (int(x1), int(y1), int(x2), int(y2))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The same place in every image.

        Raises:
            OptionError: The region reaches beyond the image.
        """
        height, width = v2.query_size(flat_inputs)
        x1, y1, x2, y2 = self.region
        if x2 > width or y2 > height:
            raise OptionError(
                f"region {list(self.region)} is larger than the image of {(height, width)} (H, W); correct it"
            )
        return {"top": y1, "left": x1, "height": y2 - y1, "width": x2 - x1}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop one tensor of the sample."""
        return F.crop(inpt, **params)


@TRANSFORMS.register_module()
class RandomZoom:
    """Enlarge by a random factor around a random place and keep the size of the image.

    What a factor z does to metric depth is a choice of the recipe. Seen as a longer lens, depth stays; seen as the same
    camera z times nearer, everything is z times nearer: then depth is divided by z. The latter teaches one camera at
    many distances, the former many cameras.

    Args:
        scale: (least, greatest) factor, 1 or more.
        divide_depth: Divide depth by the factor.
        probability: Of a zoom at all.
    """

    def __init__(self, scale: Sequence[float], divide_depth: bool, probability: float = 0.5) -> None:
        if len(scale) != 2 or not 1 <= scale[0] <= scale[1]:
            raise OptionError(f"scale {list(scale)} is not [least, greatest] with 1 <= least <= greatest")
        self.scale = (float(scale[0]), float(scale[1]))
        self.divide_depth = divide_depth
        self.probability = probability

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Zoom into the image and its depth."""
        if torch.rand(()) >= self.probability:
            return sample
        height, width = sample["img"].shape[-2:]
        wanted = self.scale[0] + (self.scale[1] - self.scale[0]) * float(torch.rand(()))
        window = (max(round(height / wanted), 1), max(round(width / wanted), 1))
        top, left = (
            int(torch.randint(full - part + 1, ())) for full, part in zip((height, width), window, strict=True)
        )
        # the window has whole pixels: the factor that it really stands for is what depth is divided by
        factor = ((height / window[0]) * (width / window[1])) ** 0.5
        zoomed = dict(sample)
        image = F.crop(sample["img"], top, left, *window)
        zoomed["img"] = F.resize(image, [height, width], antialias=True)
        if "depth" in sample:
            depth = F.crop(sample["depth"], top, left, *window).as_subclass(torch.Tensor)
            # "nearest" of torch takes the pixel up and left of the right one
            depth = F.resize(depth, [height, width], interpolation=InterpolationMode.NEAREST_EXACT)
            zoomed["depth"] = tv_tensors.Mask(depth / factor if self.divide_depth else depth)
        return zoomed


@TRANSFORMS.register_module()
class RandomExposure:
    """Change gamma, brightness and the balance of colors, all at once: value -> color * brightness * value^gamma.

    Values are in 0…1, and results are clipped to it. The factors are those of the NYUv2 recipes since BTS; these apply
    gamma on 0…255, where it changes brightness as well.

    Args:
        gamma: (least, greatest) exponent, uniform.
        brightness: (least, greatest) factor, uniform.
        color: (least, greatest) factor of each channel, uniform.
        probability: Of a change at all.
    """

    def __init__(
        self,
        gamma: Sequence[float] = (0.9, 1.1),
        brightness: Sequence[float] = (0.75, 1.25),
        color: Sequence[float] = (0.9, 1.1),
        probability: float = 0.5,
    ) -> None:
        for name, (least, greatest) in (("gamma", gamma), ("brightness", brightness), ("color", color)):
            if not 0 < least <= greatest:
                raise OptionError(f"{name} [{least}, {greatest}] is not [least, greatest] with 0 < least <= greatest")
        self.gamma, self.brightness, self.color = gamma, brightness, color
        self.probability = probability

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Change the image; depth stays."""
        if torch.rand(()) >= self.probability:
            return sample
        gamma, brightness = (torch.empty(()).uniform_(*bounds) for bounds in (self.gamma, self.brightness))
        color = torch.empty(3, 1, 1).uniform_(*self.color)
        values = (sample["img"].as_subclass(torch.Tensor).float() / 255) ** gamma * brightness * color
        image = tv_tensors.Image((255 * values.clamp(0, 1)).round().to(torch.uint8))
        return {**sample, "img": image}
