"""What `pe-spatial visualize` draws: the features of layers as colors, and what is similar to one token."""

import argparse
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import resize

from pe_spatial.common.errors import UserError
from pe_spatial.common.sizes import THINNEST
from pe_spatial.features import FeatureExtractor
from pe_spatial.visualization import FeatureColors, caption_strip, similarity, similarity_rgb


class Painter:
    """Draws the features of images; `fit` gives the colors that all images after it share."""

    def __init__(self, extractor: FeatureExtractor, options: argparse.Namespace) -> None:
        self.extractor = extractor
        self.point: list[float] | None = options.point
        self.foreground: bool = options.foreground
        self.colors: list[FeatureColors] | None = None

    def fit(self, images: Iterator[Tensor]) -> None:
        """Take the basis of every layer from these images."""
        maps = [self.extractor(image).values() for image in images]
        self.colors = [FeatureColors(layer, self.foreground) for layer in zip(*maps, strict=True)]

    def __call__(self, image: Tensor) -> Tensor:
        """The picture uint8 [3, H', W'] of an image uint8 [3, H, W]: panels of its size side by side."""
        maps = list(self.extractor(image).values())
        colors = self.colors or [FeatureColors([layer], self.foreground) for layer in maps]
        shown, scale = self._fitted(image)
        rows = [[("image", self._marked(shown, scale))]]
        for number, layer, paint in zip(self.extractor.encoder.layers, maps, colors, strict=True):
            rows[0].append((f"layer {number}", _stretch(paint(layer), shown.shape[-2:])))
        if self.point:
            rows.append([("light: similar to the cross", torch.full_like(shown, 245))])
            for number, layer in zip(self.extractor.encoder.layers, maps, strict=True):
                cosines = similarity(layer, self._token(image, layer))
                panel = self._marked(_stretch(similarity_rgb(cosines), shown.shape[-2:]), scale)
                rows[1].append((f"layer {number}: cosine {cosines.min():.2f} … 1", panel))
        return torch.cat([torch.cat([caption_strip(*panel) for panel in row], dim=2) for row in rows], dim=1)

    def _fitted(self, image: Tensor) -> tuple[Tensor, float]:
        """The image with its shorter side at the size that the encoder sees, but no less than can be looked at."""
        shown = max(self.extractor.sizing.image_size, 320)
        scale = min(shown / min(image.shape[-2:]), THINNEST * shown / max(image.shape[-2:]))
        size = [max(round(side * scale / 2), 1) * 2 for side in image.shape[-2:]]  # video needs even sides
        return resize(image, size, antialias=True), scale

    def _token(self, image: Tensor, layer: Tensor) -> tuple[int, int]:
        assert self.point is not None
        (x, y), (H, W) = self.point, image.shape[-2:]
        if not (0 <= x < W and 0 <= y < H):
            raise UserError(f"--point {x:g},{y:g} is outside an image of {W} x {H} pixels")
        return int(y / H * layer.shape[1]), int(x / W * layer.shape[2])

    def _marked(self, picture: Tensor, scale: float) -> Tensor:
        """A cross at the point, if there is one."""
        if self.point is None:
            return picture
        place = tuple(round(value * scale) for value in self.point)
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        for color, thickness in (((0, 0, 0), 5), ((255, 255, 255), 2)):
            cv2.drawMarker(pixels, place, color, cv2.MARKER_CROSS, 21, thickness)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _stretch(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Every token as a rectangle of one color: nothing is shown that the map does not hold."""
    return F.interpolate(picture[None], tuple(size), mode="nearest-exact")[0]
