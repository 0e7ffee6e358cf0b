"""Mask R-CNN on a simple feature pyramid, with the semantics of Detectron2's ViTDet configuration."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.parts import build_part
from pe_spatial.detection.detector import Detector, image_sizes_of, objects_with_area
from pe_spatial.detection.mask_rcnn.boxes import Target
from pe_spatial.detection.mask_rcnn.class_losses import FederatedLoss
from pe_spatial.detection.mask_rcnn.postprocess import rescale


@MODELS.register_module()
class MaskRCNN(Detector):
    """Detector of objects with boxes and masks; arguments that are not listed are those of `Detector`.

    Args:
        rpn: Settings of `RPN`.
        roi_heads: Settings of `RoIHeads`.

    Raises:
        OptionError: A channel count in the settings that the part before does not deliver, or what `Detector` refuses.
    """

    title = "Mask R-CNN"

    def __init__(
        self,
        num_classes: int,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        rpn: Mapping[str, Any] | None = None,
        roi_heads: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        tta: Mapping[str, Any] | None = None,
        slices: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes, backbone, neck, data_preprocessor, tta, slices)
        given = {"in_channels": self.neck.channels[0], "strides": tuple(self.neck.strides)}
        self.rpn = build_part("rpn", {"type": "RPN", **(rpn or {})}, **given)
        # the coarsest map only proposes
        given |= {"strides": given["strides"][:-1], "num_classes": num_classes}
        self.roi_heads = build_part("roi_heads", {"type": "RoIHeads", **(roi_heads or {})}, **given)

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> tuple[Tensor, ...]:
        """Return the maps of the pyramid, finest first."""
        return self.neck(self.backbone(inputs))

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """See `Detector`."""
        features = self.raw(inputs)
        targets = [self._target(sample, inputs) for sample in data_samples]
        proposals, losses = self.rpn.loss(features, image_sizes_of(data_samples), targets)
        return {**losses, **self.roi_heads.loss(features[:-1], proposals, targets)}

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """See `Detector`."""
        features, image_sizes = self.raw(inputs), image_sizes_of(data_samples)
        proposals = [boxes for boxes, _ in self.rpn.predict(features, image_sizes)]
        found = self.roi_heads.predict(features[:-1], proposals, image_sizes)
        for sample, detections, size in zip(data_samples, found, image_sizes, strict=True):
            sample.pred_instances = rescale(detections, size, tuple(sample.ori_shape[:2]))
        return list(data_samples)

    def bind_dataset(self, metainfo: Mapping[str, Any]) -> None:
        """Check the model against the training data and take from it what the losses need.

        Args:
            metainfo: Of the dataset; `classes` are the names of its classes, `image_counts` the number of images
                with each class (needed by `FederatedLoss`).

        Raises:
            OptionError: The number of classes is not the model's.
        """
        self.check_classes(metainfo)
        if isinstance(self.roi_heads.class_loss, FederatedLoss):
            self.roi_heads.class_loss.set_frequencies(metainfo["image_counts"])

    def _target(self, sample: BaseDataElement, inputs: Tensor) -> Target:
        boxes, labels, keep = objects_with_area(sample, inputs.device)
        masks = sample.gt_instances.get("masks")
        if masks is None:
            return Target(boxes, labels)
        if isinstance(masks, list):  # polygons
            return Target(boxes, labels, list(compress(masks, keep.tolist())))
        return Target(boxes, labels, torch.as_tensor(masks).to(inputs.device)[keep])
