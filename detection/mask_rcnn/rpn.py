"""Region proposal network: from a feature pyramid to boxes that may hold an object.

B images, L levels, A anchors a cell, N anchors of all levels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from pe_spatial.common.errors import DivergedError, OptionError
from pe_spatial.detection.mask_rcnn.anchors import grid_anchors
from pe_spatial.detection.mask_rcnn.boxes import IGNORED, Assigner, DeltaCoder, Target
from pe_spatial.detection.nms import survivors


class RPNHead(nn.Module):
    """Shared convolutions, then an objectness logit and four offsets per anchor."""

    def __init__(self, in_channels: int, num_anchors: int, num_convs: int = 2) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(num_convs))
        self.objectness = nn.Conv2d(in_channels, num_anchors, 1)
        self.deltas = nn.Conv2d(in_channels, 4 * num_anchors, 1)
        for layer in (*self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return per level logits [B, H * W * A] and offsets [B, H * W * A, 4], in the order of the anchors, fp32."""
        logits, deltas = [], []
        for x in features:
            for conv in self.conv:
                x = F.relu(conv(x))
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            offsets = self.deltas(x).permute(0, 2, 3, 1)  # [B, H, W, A * 4]
            deltas.append(offsets.reshape(len(offsets), -1, 4).float())
        return logits, deltas


@MODELS.register_module()
class RPN(nn.Module):
    """Proposals and their losses.

    Args:
        in_channels: Channels of every map of the pyramid.
        strides: Stride of every map, finest first.
        anchor_sizes: Square root of the anchors' area on each map, pixels.
        num_convs: 3x3 convolutions before the two predictors.
        pre_nms: Boxes kept per level before suppression, in training and in testing.
        post_nms: Boxes kept per image after suppression, in training and in testing.
        samples: Anchors per image that the losses see, at most half of them objects.

    Raises:
        OptionError: The number of anchor sizes is not the number of maps.
    """

    aspect_ratios = (0.5, 1.0, 2.0)
    nms_threshold = 0.7

    def __init__(
        self,
        in_channels: int,
        strides: Sequence[float],
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        num_convs: int = 2,
        pre_nms: tuple[int, int] = (2000, 1000),
        post_nms: tuple[int, int] = (1000, 1000),
        samples: int = 256,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != len(strides):
            raise OptionError(
                f"{len(anchor_sizes)} anchor_sizes {tuple(anchor_sizes)} for {len(strides)} maps of strides "
                f"{tuple(strides)}; give one size per map"
            )
        self.head = RPNHead(in_channels, len(self.aspect_ratios), num_convs)
        self.strides = tuple(strides)
        self.anchor_sizes = tuple(anchor_sizes)
        self.pre_nms = tuple(pre_nms)
        self.post_nms = tuple(post_nms)
        self.samples = samples
        self.coder = DeltaCoder((1.0, 1.0, 1.0, 1.0))
        self.assigner = Assigner((0.3, 0.7), samples, positive_fraction=0.5, keep_best=True)

    def predict(
        self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return per image boxes [P, 4] xyxy and logits [P], best first.

        Args:
            features: Maps [B, C, H, W], finest first.
            image_sizes: (H, W) of each image without its padding; boxes are clipped to it.
        """
        logits, deltas = self.head(features)
        return self._proposals(self._anchors(features), logits, deltas, image_sizes, self.pre_nms[1], self.post_nms[1])

    def fixed(self, features: Sequence[Tensor], image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The proposals of `predict` in tensors whose sizes follow no values; for graphs.

        Args:
            features: Maps [B, C, H, W], finest first.
            image_sizes: [B, 2], (H, W) of each image without its padding.

        Returns:
            Boxes [B, P, 4] xyxy and logits [B, P], best first. Where there are fewer, the rest has -inf and no area.
        """
        boxes, scores = [], []
        for anchor, logit, delta in zip(self._anchors(features), *self.head(features), strict=True):
            padded = F.pad(logit, (0, self.pre_nms[1]), value=-torch.inf)  # maps may have fewer anchors
            score, best = padded.topk(self.pre_nms[1], dim=1)
            box = self._decode(anchor, delta, best.clamp(max=logit.shape[1] - 1))
            box, score = drop_invalid(box, score, image_sizes)
            keep = [survivors(b, s, self.nms_threshold) for b, s in zip(box.unbind(), score.unbind(), strict=True)]
            boxes.append(box)
            scores.append(score.masked_fill(~torch.stack(keep), -torch.inf))
        box, score = torch.cat(boxes, 1), torch.cat(scores, 1)
        score, best = score.topk(min(self.post_nms[1], score.shape[1]), dim=1)
        box = box.gather(1, best[..., None].expand(-1, -1, 4))
        return box.masked_fill(score[..., None].isneginf(), 0.0), score

    def loss(
        self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], targets: Sequence[Target]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return per image the proposed boxes [P, 4], without gradient, and the losses.

        Both losses are sums over the sampled anchors divided by `samples * B`; the offsets' is L1.

        Raises:
            DivergedError: Logits or offsets are not finite.
        """
        logits, deltas = self.head(features)
        anchors = self._anchors(features)
        all_logits, all_deltas, all_anchors = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
        if not (all_logits.isfinite().all() and all_deltas.isfinite().all()):
            raise DivergedError("region proposals contain Inf or NaN: the training diverged; lower the learning rate")
        with torch.no_grad():
            labels, offsets = self._regression_targets(all_anchors, targets)
            proposals = self._proposals(anchors, logits, deltas, image_sizes, self.pre_nms[0], self.post_nms[0])
        sampled, positive = labels != IGNORED, labels == 1
        norm = self.samples * len(targets)
        classes = F.binary_cross_entropy_with_logits(all_logits[sampled], labels[sampled].float(), reduction="sum")
        shifts = F.l1_loss(all_deltas[positive], offsets[positive], reduction="sum")
        return [boxes for boxes, _ in proposals], {"loss_rpn_cls": classes / norm, "loss_rpn_loc": shifts / norm}

    def _anchors(self, features: Sequence[Tensor]) -> list[Tensor]:
        sizes = [(x.shape[-2], x.shape[-1]) for x in features]
        return grid_anchors(sizes, self.strides, self.anchor_sizes, self.aspect_ratios, features[0].device)

    def _regression_targets(self, anchors: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
        """Labels [B, N] of the anchors after sampling, and offsets [B, N, 4] to their objects (0 without one)."""
        labels, offsets = [], []
        for target in targets:
            match = self.assigner.match(anchors, target.boxes)
            positive, negative = self.assigner.sample(match.label)
            label = torch.full_like(match.label, IGNORED)
            label[positive] = 1
            label[negative] = 0
            offset = torch.zeros_like(anchors)
            offset[positive] = self.coder.encode(target.boxes[match.gt_index[positive]], anchors[positive])
            labels.append(label)
            offsets.append(offset)
        return torch.stack(labels), torch.stack(offsets)

    def _proposals(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        pre_nms: int,
        post_nms: int,
    ) -> list[tuple[Tensor, Tensor]]:
        """Best boxes of each level, then suppression within each level on raw logits, then the best of all levels."""
        boxes, scores, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas, strict=True)):
            score, best = logit.topk(min(pre_nms, logit.shape[1]), dim=1)  # [B, n]
            boxes.append(self._decode(anchor, delta, best))
            scores.append(score)
            levels.append(torch.full_like(best[0], level))
        level_of = torch.cat(levels)
        results = []
        for box, score, size in zip(torch.cat(boxes, 1), torch.cat(scores, 1), image_sizes, strict=True):
            finite = box.isfinite().all(dim=1) & score.isfinite()
            box = clip_boxes_to_image(box, size)
            keep = finite & (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
            box, score = box[keep], score[keep]
            kept = batched_nms(box, score, level_of[keep], self.nms_threshold)[:post_nms]
            results.append((box[kept], score[kept]))
        return results

    def _decode(self, anchors: Tensor, deltas: Tensor, chosen: Tensor) -> Tensor:
        """Boxes [B, n, 4] of the `chosen` anchors [B, n] among N, from offsets [B, N, 4]."""
        deltas = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(deltas.flatten(0, 1), anchors[chosen].flatten(0, 1))  # [B * n, 1, 4]
        return boxes.reshape(*chosen.shape, 4)


def drop_invalid(boxes: Tensor, scores: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Clip boxes to their images; what is not finite or has no area then is zero and scores -inf.

    Args:
        boxes: [B, N, 4] xyxy, pixels.
        scores: [B, N].
        image_sizes: [B, 2], (H, W).
    """
    limit = image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # [B, 1, 4]
    finite = boxes.isfinite().all(-1) & scores.isfinite()
    boxes = torch.where(finite[..., None], boxes, 0.0).clamp(min=0).minimum(limit)
    keep = finite & (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return boxes.masked_fill(~keep[..., None], 0.0), torch.where(keep, scores, -torch.inf)
