"""Test-time augmentation of detectors: every image at several sizes and mirrored, and one list of detections."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.data import encode_masks, mirror_masks
from pe_spatial.detection.nms import Suppression
from pe_spatial.detection.views import build_views, require_canvas


@MODELS.register_module()
class MultiScaleFlip:
    """Detections of several views of an image, merged by a second suppression, as the authors of PE do for DETA.

    It is what `model.tta` of a detector configures. It works in `test_step`, so for `--eval-only` and for
    prediction, and not in the validation of a training run.

    Args:
        sizes: Longer side of each view in pixels; the image of the pipeline is resized to it. None: as it is.
        flip: Whether each view is also mirrored.
        min_boxes: For each size, the side in pixels of the original image of a square; a view's boxes of no larger area
            are left to the other views. Empty: all boxes of all views count.
        merge: Settings of the `Suppression` that merges; the authors' if empty.
        max_detections: Kept per image; None keeps all, like the authors.

    Raises:
        OptionError: Sizes that are no sizes or repeat each other, or another number of `min_boxes` than of sizes.
    """

    def __init__(
        self,
        sizes: Sequence[int | None],
        flip: bool = True,
        min_boxes: Sequence[float] = (),
        merge: Mapping[str, Any] | None = None,
        max_detections: int | None = None,
    ) -> None:
        numbers = [size for size in sizes if size is not None]
        if not sizes or any(not isinstance(size, int) or size < 1 for size in numbers) or len({*sizes}) < len(sizes):
            raise OptionError(
                f"tta.sizes {list(sizes)} must be different whole numbers of pixels, at least one; null is the "
                "image as the pipeline gives it"
            )
        if min_boxes and (len(min_boxes) != len(sizes) or min(min_boxes) < 0):
            raise OptionError(
                f"tta.min_boxes {list(min_boxes)} must be one side in pixels for each of sizes {list(sizes)}"
            )
        if max_detections is not None and max_detections < 1:
            raise OptionError(f"tta.max_detections {max_detections} must be at least 1, or null for all")
        self.views = [
            (size, flipped, min_box)
            for size, min_box in zip(sizes, min_boxes or [0.0] * len(sizes), strict=True)
            for flipped in ((False, True) if flip else (False,))
        ]
        self.merge: Suppression = MODELS.build({"type": "Suppression", "method": "quad", **(merge or {})})
        self.max_detections = max_detections
        self.largest = max(numbers, default=0)

    def __call__(self, model: BaseModel, data: Mapping[str, Any]) -> list[BaseDataElement]:
        """Do the work of `model.test_step`.

        Args:
            model: a detector whose `predict` fills `pred_instances` in the original frame.
            data: a batch as it comes from the loader: `inputs`, uint8 images [3, h, w], and `data_samples`.

        Returns:
            The samples with the merged `pred_instances`, best first.
        """
        samples: list[BaseDataElement] = list(data["data_samples"])
        found = zip(*self._detect(model, list(data["inputs"]), samples), strict=True)
        for sample, views in zip(samples, found, strict=True):
            sample.pred_instances = self.merge.suppress(InstanceData.cat(list(views)), self.max_detections)
        return samples

    def _detect(
        self, model: BaseModel, images: Sequence[Tensor], samples: Sequence[BaseDataElement]
    ) -> Iterator[list[InstanceData]]:
        """For every view, the detections of every image in its original frame."""
        for size, flipped, min_box in self.views:
            resized = [_view(image, size, flipped) for image in images]
            batch = {
                "inputs": resized,
                "data_samples": [
                    BaseDataElement(metainfo={**sample.metainfo, "img_shape": tuple(image.shape[1:])})
                    for sample, image in zip(samples, resized, strict=True)
                ],
            }
            results = model(**model.data_preprocessor(batch, False), mode="predict")
            for found in (result.pred_instances for result in results):
                if "masks" in found:  # a detector of the user's own may give bitmaps
                    found.masks = encode_masks(found.masks)
            if flipped:
                for result in results:
                    unmirror(result.pred_instances, result.ori_shape[1])
            yield [_keep_larger(result.pred_instances, min_box) for result in results]


def build_tta(settings: Mapping[str, Any] | None, preprocessor: Any) -> MultiScaleFlip | None:  # noqa: ANN401
    """A detector's `MultiScaleFlip`, or None for no settings.

    Raises:
        OptionError: Impossible settings, or a view that does not fit the canvas of the detector's `preprocessor`.
    """
    if settings is None:
        return None
    tta: MultiScaleFlip = build_views("MultiScaleFlip", "tta", settings)
    require_canvas(preprocessor, tta.largest, f"tta.sizes has {tta.largest}", "leave it out")
    return tta


def _view(image: Tensor, size: int | None, flipped: bool) -> Tensor:
    """An image [3, h, w] whose longer side is `size`; the sides are rounded down, as floats, as by DETA's authors."""
    if size is not None:
        scale = size / max(image.shape[1:])
        height, width = (max(1, int(scale * side)) for side in image.shape[1:])
        if (height, width) != tuple(image.shape[1:]):
            image = F.resize(image, [height, width], antialias=True)
    return image.flip(-1) if flipped else image


def unmirror(found: InstanceData, width: int) -> InstanceData:
    """The detections of a mirrored image, `width` pixels wide, as those of the image; changes them in place."""
    x1, y1, x2, y2 = found.bboxes.unbind(1)
    found.bboxes = torch.stack([width - x2, y1, width - x1, y2], 1)
    if "masks" in found:
        found.masks = mirror_masks(encode_masks(found.masks))
    return found


def _keep_larger(found: InstanceData, side: float) -> InstanceData:
    """The detections whose boxes have more area than a square of that side."""
    extent = found.bboxes[:, 2:] - found.bboxes[:, :2]
    return found[extent[:, 0] * extent[:, 1] > side**2]
