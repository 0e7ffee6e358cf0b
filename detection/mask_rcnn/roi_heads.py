"""Box and mask heads on proposals: losses and detections. B images, R sampled boxes, K classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from pe_spatial.common.parts import build_part
from pe_spatial.detection.mask_rcnn.box_head import BoxPredictor
from pe_spatial.detection.mask_rcnn.boxes import Assigner, DeltaCoder, Target
from pe_spatial.detection.mask_rcnn.mask_head import crop_masks, mask_loss
from pe_spatial.detection.mask_rcnn.pooler import RoIPooler
from pe_spatial.detection.nms import Suppression

_CANDIDATES = 3840  # pairs of proposal and class that a graph suppresses; TensorRT's top-k gives no more


class Detections(NamedTuple):
    """Detections of one image, highest score first.

    Attributes:
        boxes: [N, 4] xyxy, pixels of the input.
        scores: [N].
        labels: [N].
        masks: [N, 28, 28], the probability of each cell of the box; None before or without the mask head.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class SampledBoxes(NamedTuple):
    """Proposals of one image that the losses see.

    Attributes:
        boxes: [R, 4].
        labels: [R]; K is background.
        gt_index: [R], the row of the matched object.
    """

    boxes: Tensor
    labels: Tensor
    gt_index: Tensor


@MODELS.register_module()
class RoIHeads(nn.Module):
    """The second stage.

    Args:
        in_channels: Channels of every map of the pyramid.
        strides: Strides of the maps that boxes are read from, finest first.
        num_classes: K.
        box_head: Settings of the box head, `ConvFCBoxHead` unless `type` says otherwise.
        mask_head: Settings of the mask head, `ConvUpsampleMaskHead` unless `type` says otherwise.
        masks: Whether there is a mask head; without one (Faster R-CNN) boxes alone are learned and found.
        class_loss: `SoftmaxLoss` or `FederatedLoss`.
        nms: Settings of the `Suppression`; hard, at an IoU of 0.5, unless they say otherwise.
        samples: Proposals per image that the losses see, at most a quarter of them objects.
        score_threshold: Detections must score more.
        max_detections: Kept per image.
    """

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[float],
        num_classes: int,
        box_head: Mapping[str, Any] | None = None,
        mask_head: Mapping[str, Any] | None = None,
        class_loss: Mapping[str, Any] | None = None,
        nms: Mapping[str, Any] | None = None,
        samples: int = 512,
        score_threshold: float = 0.05,
        max_detections: int = 100,
        masks: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        given = {"in_channels": in_channels, "num_classes": num_classes}
        self.box_head = build_part("box_head", {"type": "ConvFCBoxHead", **(box_head or {})}, in_channels=in_channels)
        self.box_predictor = BoxPredictor(self.box_head.out_channels, num_classes)
        self.mask_head = (
            build_part("mask_head", {"type": "ConvUpsampleMaskHead", **(mask_head or {})}, **given) if masks else None
        )
        self.class_loss = MODELS.build({"type": "SoftmaxLoss", **(class_loss or {})})
        self.suppress: Suppression = MODELS.build({"type": "Suppression", "threshold": 0.5, **(nms or {})})
        self.box_pooler = RoIPooler(self.box_head.resolution, strides)
        self.mask_pooler = RoIPooler(self.mask_head.resolution, strides) if self.mask_head else None
        self.coder = DeltaCoder((10.0, 10.0, 5.0, 5.0))
        self.assigner = Assigner((0.5, 0.5), samples, positive_fraction=0.25)

    def loss(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Losses of class, box (L1, over all sampled boxes) and, with a mask head, mask (over the sampled objects).

        Args:
            features: Maps [B, C, H, W], finest first.
            proposals: Per image [P, 4]; the ground-truth boxes are added to them.
            targets: Per image the objects.
        """
        sampled = [self._sample(boxes, target) for boxes, target in zip(proposals, targets, strict=True)]
        labels = torch.cat([s.labels for s in sampled])
        logits, deltas = self._boxes(features, [s.boxes for s in sampled])
        wanted = torch.cat([self._offsets(s, t) for s, t in zip(sampled, targets, strict=True)])  # [objects, 4]
        objects = (labels < self.num_classes).nonzero().squeeze(1)
        predicted = deltas.reshape(len(labels), self.num_classes, 4)[objects, labels[objects]]
        losses = {
            "loss_cls": self.class_loss(logits, labels),
            "loss_box_reg": F.l1_loss(predicted, wanted, reduction="sum") / max(len(labels), 1),
        }
        return (
            losses if self.mask_head is None else {**losses, "loss_mask": self._mask_loss(features, sampled, targets)}
        )

    def predict(
        self, features: Sequence[Tensor], proposals: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Find the objects among `proposals`; boxes are clipped to `image_sizes` (H, W)."""
        logits, deltas = self._boxes(features, proposals)
        scores = self.class_loss.scores(logits)
        boxes = self.coder.decode(deltas, torch.cat(list(proposals)))  # [R, K, 4]
        counts = [len(p) for p in proposals]
        found = [
            self._detect(b, s, size)
            for b, s, size in zip(boxes.split(counts), scores.split(counts), image_sizes, strict=True)
        ]
        if self.mask_head is None or self.mask_pooler is None:
            return found
        crops = self.mask_pooler(features, [d.boxes for d in found])
        masks = self.mask_head(crops, torch.cat([d.labels for d in found])).sigmoid()
        return [d._replace(masks=m) for d, m in zip(found, masks.split([len(d.boxes) for d in found]), strict=True)]

    def candidates(
        self, features: Sequence[Tensor], proposals: Tensor, logits: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `predict` chooses from, in tensors whose sizes follow no values; for graphs.

        Args:
            features: Maps [B, C, H, W], finest first.
            proposals: [B, P, 4] xyxy.
            logits: [B, P], -inf where there is no proposal.
            image_sizes: [B, 2], (H, W) of each image without its padding.

        Returns:
            Boxes [B, P, K, 4] xyxy in input pixels, clipped, and scores [B, P, K]; both 0 where there is no proposal.
        """
        images, number = logits.shape
        class_logits, deltas = self.box_predictor(self.box_head(self.box_pooler.fixed(features, proposals)))
        scores = self.class_loss.scores(class_logits)  # [B * P, K]
        boxes = self.coder.decode(deltas, proposals.reshape(-1, 4))  # [B * P, K, 4]
        finite = boxes.flatten(1).isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        there = finite.reshape(images, number) & ~logits.isneginf()
        limit = image_sizes.flip(1).repeat(1, 2)[:, None, None].to(boxes.dtype)  # [B, 1, 1, 4]
        boxes = boxes.reshape(images, number, self.num_classes, 4)
        boxes = torch.where(there[..., None, None], boxes, 0.0).clamp(min=0).minimum(limit)
        return boxes, torch.where(there[..., None], scores.reshape(images, number, self.num_classes), 0.0)

    def fixed(self, features: Sequence[Tensor], boxes: Tensor, scores: Tensor) -> tuple[Tensor, ...]:
        """Detections among `candidates`, in tensors whose sizes follow no values; for graphs.

        Suppression sees the 3840 best pairs of proposal and class, where `predict` takes all of them.

        Args:
            features: Maps [B, C, H, W], finest first.
            boxes: [B, P, K, 4] xyxy.
            scores: [B, P, K].

        Returns:
            Boxes [B, D, 4], scores [B, D], labels [B, D] and, with a mask head, probabilities [B, D, 28, 28] of masks;
            best first, and 0 where there are fewer. D is `max_detections`, or P * K if that is less.
        """
        images = boxes.shape[0]
        chosen = torch.where(scores > self.score_threshold, scores, -torch.inf).flatten(1)  # [B, P * K]
        score, index = chosen.topk(min(_CANDIDATES, chosen.shape[1]), dim=1)
        box = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
        label = index % self.num_classes
        most = min(self.max_detections, score.shape[1])
        found = [self.suppress.fixed(box[i], score[i], label[i], self.num_classes, most) for i in range(images)]
        kept, best, labels = (torch.stack(column) for column in zip(*found, strict=True))
        if self.mask_head is None or self.mask_pooler is None:
            return kept, best, labels
        masks = self.mask_head(self.mask_pooler.fixed(features, kept), labels.flatten()).sigmoid()
        masks = masks.reshape(images, most, *masks.shape[1:])
        return kept, best, labels, torch.where((best > 0)[..., None, None], masks, 0.0)

    def _boxes(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return self.box_predictor(self.box_head(self.box_pooler(features, boxes)))

    def _sample(self, proposals: Tensor, target: Target) -> SampledBoxes:
        """Sample proposals for the losses; the ground-truth boxes are candidates too, so that no object is missing."""
        boxes = torch.cat([proposals, target.boxes.to(proposals.dtype)])
        match = self.assigner.match(boxes, target.boxes)
        index = torch.cat(self.assigner.sample(match.label))
        if len(target.labels) == 0:
            labels = torch.full_like(index, self.num_classes)
        else:
            labels = torch.where(match.label == 1, target.labels[match.gt_index], self.num_classes)[index]
        return SampledBoxes(boxes[index], labels, match.gt_index[index])

    def _offsets(self, sampled: SampledBoxes, target: Target) -> Tensor:
        """Offsets [objects, 4] from the sampled boxes that are objects to their ground-truth boxes."""
        is_object = sampled.labels < self.num_classes
        return self.coder.encode(target.boxes[sampled.gt_index[is_object]], sampled.boxes[is_object])

    def _mask_loss(
        self, features: Sequence[Tensor], sampled: Sequence[SampledBoxes], targets: Sequence[Target]
    ) -> Tensor:
        assert self.mask_head is not None and self.mask_pooler is not None, "there is no mask head"
        objects = [SampledBoxes(*(field[s.labels < self.num_classes] for field in s)) for s in sampled]
        crops = self.mask_pooler(features, [o.boxes for o in objects])
        logits = self.mask_head(crops, torch.cat([o.labels for o in objects]))
        wanted = [
            crop_masks(t.masks, o.gt_index, o.boxes, logits.shape[-1]) for o, t in zip(objects, targets, strict=True)
        ]
        return mask_loss(logits, torch.cat(wanted))

    def _detect(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> Detections:
        """Threshold, suppress within each class and keep the best, from boxes [P, K, 4] and scores [P, K]."""
        finite = boxes.flatten(1).isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        row, label = ((scores > self.score_threshold) & finite[:, None]).nonzero(as_tuple=True)
        box, score = clip_boxes_to_image(boxes[row, label], image_size), scores[row, label]
        keep, score = self.suppress(box, score, label)
        keep, score = keep[: self.max_detections], score[: self.max_detections]
        return Detections(box[keep], score, label[keep])
