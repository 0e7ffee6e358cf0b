"""Mask R-CNN on a simple feature pyramid, with the semantics of Detectron2's ViTDet configuration."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor

from pe_spatial.common.errors import require_choice
from pe_spatial.common.graphs import NetworkGraph
from pe_spatial.common.parts import build_part
from pe_spatial.detection.detector import Detector, image_sizes_of, objects_with_area, sizes_as_tensor
from pe_spatial.detection.mask_rcnn.boxes import Target
from pe_spatial.detection.mask_rcnn.class_losses import FederatedLoss
from pe_spatial.detection.mask_rcnn.postprocess import rescale
from pe_spatial.detection.mask_rcnn.roi_heads import Detections


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
        image_sizes = image_sizes_of(data_samples)
        found = self.find(inputs, image_sizes)
        for sample, detections, size in zip(data_samples, found, image_sizes, strict=True):
            sample.pred_instances = rescale(detections, size, tuple(sample.ori_shape[:2]))
        return list(data_samples)

    def find(self, inputs: Tensor, image_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections in the frame of images [B, 3, H, W], whose sizes (H, W) without padding are `image_sizes`."""
        if self._engine is not None:
            found = self._engine(inputs, sizes_as_tensor(image_sizes, inputs))
            return [Detections(*(part[part_of[1] > 0] for part in part_of)) for part_of in zip(*found, strict=True)]
        features = self.raw(inputs)
        proposals = [boxes for boxes, _ in self.rpn.predict(features, image_sizes)]
        return self.roi_heads.predict(features[:-1], proposals, image_sizes)

    def graph(self, kind: str = "") -> NetworkGraph:
        """See `Exportable`.

        Inputs are `images` [B, 3, H, W] and `image_sizes`, float32 [B, 2], (H, W) of each without its padding. Outputs
        are those of `RoIHeads.fixed`; of the kind "raw" they are those of `RoIHeads.candidates`, before suppression.

        The network has a form of its own for graphs, in which nothing's size follows values. It computes boxes and
        masks for every place, so eager prediction keeps the form that computes what there is. B is fixed, because
        suppression treats one image after the other.

        Raises:
            OptionError: Another kind, or soft suppression in the graph.
        """
        require_choice("graph", kind, ("", "raw"))
        if kind == "":
            self.roi_heads.suppress.require_hard()
        outputs = ["boxes", "scores"] if kind else ["boxes", "scores", "labels"]
        if not kind and self.roi_heads.mask_head is not None:
            outputs.append("masks")
        return self.detector_graph(partial(self._fixed, kind), outputs)

    def _fixed(self, kind: str, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.raw(images)
        proposals, logits = self.rpn.fixed(features, image_sizes)
        boxes, scores = self.roi_heads.candidates(features[:-1], proposals, logits, image_sizes)
        return (boxes, scores) if kind else self.roi_heads.fixed(features[:-1], boxes, scores)

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
