"""DETA: a two-stage deformable DETR with box refinement, trained by overlap or one to one."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torchvision.ops import box_convert

from pe_spatial.common.errors import OptionError, require_choice
from pe_spatial.common.graphs import NetworkGraph
from pe_spatial.common.parts import build_part
from pe_spatial.detection.deta import proposals
from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.criterion import Criterion
from pe_spatial.detection.deta.matching import IoUMatching, OneToOneMatching, Target
from pe_spatial.detection.deta.postprocess import NMSPostprocess
from pe_spatial.detection.deta.tokens import TokenGrid
from pe_spatial.detection.deta.transformer import Predictions, QuerySelector
from pe_spatial.detection.detector import Detector, image_sizes_of, objects_with_area, sizes_as_tensor

_QUERIES = "model.transformer.num_queries"


# by matching: its class, the selection of queries, and the post-processing
_KINDS: dict[str, tuple[type[IoUMatching | OneToOneMatching], QuerySelector, str]] = {
    "iou": (IoUMatching, proposals.select_per_level, "NMSPostprocess"),
    "one_to_one": (OneToOneMatching, proposals.select_top_k, "TopKPostprocess"),
}


@MODELS.register_module()
class DETA(Detector):
    """Detector of objects with boxes; arguments that are not listed are those of `Detector`.

    Args:
        transformer: Settings of `DetaTransformer`.
        matching: `iou` is DETA; `one_to_one` is a two-stage Deformable DETR, with DETR's matching, the best tokens
            as queries and no suppression.
        loss_weights: Of the focal, the L1 and the generalized IoU loss.
        postprocess: Settings of a post-processor; see `postprocess.py`. None takes the one that goes with
            `matching`.
        float32_transformer: Whether the transformer computes in float32 under autocast, as the authors' does.

    Raises:
        OptionError: A matching that does not exist, or what `Detector` refuses.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        transformer: Mapping[str, Any] | None = None,
        matching: Literal["iou", "one_to_one"] = "iou",
        loss_weights: Sequence[float] = (1.0, 5.0, 2.0),
        postprocess: Mapping[str, Any] | None = None,
        float32_transformer: bool = True,
        data_preprocessor: Mapping[str, Any] | None = None,
        tta: Mapping[str, Any] | None = None,
        slices: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_classes, backbone, neck, data_preprocessor, tta, slices)
        require_choice("matching", matching, _KINDS)
        if len(loss_weights) != 3:
            raise OptionError(
                f"loss_weights {list(loss_weights)} must be three numbers, for the focal, L1 and generalized IoU loss"
            )
        self.matching = matching
        self.float32_transformer = float32_transformer
        self.transformer = build_part(
            "transformer",
            {"type": "DetaTransformer", **(transformer or {})},
            num_classes=num_classes,
            channels=self.neck.channels[0],
            levels=len(self.neck.channels),
        )
        if matching == "iou" and not self.transformer.two_stage:
            raise OptionError(
                "matching 'iou' needs the boxes that queries start from, but learned queries have none; set "
                "matching: one_to_one or transformer.two_stage: true"
            )
        matcher, self._select_queries, default = _KINDS[matching]
        self.criterion = Criterion(matcher(), loss_weights)
        self.postprocess = MODELS.build(dict(postprocess or {"type": default}))

    def raw(self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None) -> Predictions:
        """Return the `Predictions`, relative to the images without padding; without data samples nothing is padding."""
        if data_samples is None:
            return self._predictions(inputs, [(inputs.shape[-2], inputs.shape[-1])] * len(inputs))
        return self._predictions(inputs, image_sizes_of(data_samples))

    def _predictions(self, inputs: Tensor, image_sizes: Sequence[tuple[int, int]] | Tensor) -> Predictions:
        maps = self.neck(self.backbone(inputs))
        grid = TokenGrid.of(maps, image_sizes, (inputs.shape[-2], inputs.shape[-1]))
        if not self.float32_transformer:
            return self.transformer(maps, grid, self._select_queries)
        with torch.autocast(inputs.device.type, enabled=False):
            return self.transformer([m.float() for m in maps], grid, self._select_queries)

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """See `Detector`."""
        predictions = self.raw(inputs, data_samples)
        return self.criterion(predictions, [self._target(sample, inputs) for sample in data_samples])

    def predict(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[BaseDataElement]:
        """See `Detector`."""
        for sample, (boxes, scores) in zip(data_samples, self.detect(inputs, data_samples), strict=True):
            sample.pred_instances = self.postprocess(boxes, scores)
        return list(data_samples)

    def detect(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> list[tuple[Tensor, Tensor]]:
        """Return the predictions of the last layer for every image, before post-processing.

        Args:
            inputs: [B, 3, H, W].
            data_samples: With `img_shape` and `ori_shape`.

        Returns:
            Boxes [Q, 4] (xyxy, pixels of the original image, not clipped) and scores [Q, K] for every image.
        """
        if self._engine is None:
            last = self.raw(inputs, data_samples).layers[-1]
            outputs: Sequence[Tensor] = (last.boxes, last.logits)
        else:
            outputs = self._engine(inputs, sizes_as_tensor(image_sizes_of(data_samples), inputs))
        found = []
        for boxes, logits, sample in zip(*outputs, data_samples, strict=True):
            height, width = sample.ori_shape[:2]
            found.append((to_corners(boxes) * boxes.new_tensor([width, height] * 2), logits.float().sigmoid()))
        return found

    def graph(self, kind: str = "") -> NetworkGraph:
        """See `Exportable` and `detector_graph`.

        Outputs are those of the last layer: `boxes` [B, Q, 4] (cx, cy, w, h relative to the image without padding) and
        `logits` [B, Q, K]. Of the kind "suppressed" they are detections: `boxes` [B, D, 4] (xyxy, pixels of the input,
        not clipped), `scores` [B, D] and `labels` [B, D], best first and 0 where there are fewer.

        Raises:
            OptionError: Another kind, or a post-processing that is no hard suppression in a "suppressed" graph.
        """
        require_choice("graph", kind, ("", "suppressed"))
        if not kind:
            return self.detector_graph(self._last_layer, ("boxes", "logits"))
        if not isinstance(self.postprocess, NMSPostprocess):
            raise OptionError(
                f"graph 'suppressed': model.postprocess is {type(self.postprocess).__name__}, and graphs suppress as "
                "NMSPostprocess does; export the graph of kind '', or set model.postprocess.type to NMSPostprocess"
            )
        return self.detector_graph(self._suppressed, ("boxes", "scores", "labels"))

    def _last_layer(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        last = self._predictions(images, image_sizes).layers[-1]
        return last.boxes, last.logits.float()

    def _suppressed(self, images: Tensor, image_sizes: Tensor) -> list[Tensor]:
        boxes, logits = self._last_layer(images, image_sizes)
        boxes = to_corners(boxes) * image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
        found = [self.postprocess.fixed(*each) for each in zip(boxes.unbind(), logits.sigmoid().unbind(), strict=True)]
        return [torch.stack(column) for column in zip(*found, strict=True)]

    def bind_dataset(self, metainfo: Mapping[str, Any]) -> None:
        """Check the model against the training data.

        Raises:
            OptionError: The number of classes is not the model's, or an image has more objects than there are queries
                and every object needs one of its own. Matched by IoU, a query may answer for several: a warning.
        """
        self.check_classes(metainfo)
        most = metainfo.get("most_objects", 0)
        if most > self.transformer.num_queries:
            message = self._too_many(f"an image of the training data has {most}")
            if self.matching == "one_to_one":
                raise OptionError(message)
            print_log(message, "current", logging.WARNING)

    def _too_many(self, found: str) -> str:
        queries = self.transformer.num_queries
        return f"{found} objects, but the model finds at most as many as its {queries} queries; set {_QUERIES} higher"

    def _target(self, sample: BaseDataElement, inputs: Tensor) -> Target:
        """The target of an image, relative to its size."""
        height, width = sample.img_shape[:2]
        boxes, labels, _ = objects_with_area(sample, inputs.device)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise OptionError(
                f"{sample.get('img_path')}: labels {labels.min()} to {labels.max()}, but the model has "
                f"num_classes={self.num_classes}, labels 0 to {self.num_classes - 1}; set model.num_classes to the "
                "number of classes of the data"
            )
        if len(labels) > self.transformer.num_queries and self.matching == "one_to_one":
            raise OptionError(self._too_many(f"{sample.get('img_path')}: {len(labels)}"))
        return Target(box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height] * 2), labels)
