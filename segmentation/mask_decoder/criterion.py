"""The loss of a set of predicted masks (Mask2Former, arXiv:2112.01527)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.common.errors import OptionError
from pe_spatial.segmentation.mask_decoder.matcher import Match, Weights, match
from pe_spatial.segmentation.mask_decoder.points import read_points, uncertain_points
from pe_spatial.segmentation.mask_decoder.targets import Segments


class Masks(NamedTuple):
    """Predictions of the queries of a batch.

    Args:
        logits: [B, Q, h, w], above 0 inside a mask.
        class_logits: [B, Q, K+1], the last for "no object".
    """

    logits: Tensor
    class_logits: Tensor


@MODELS.register_module()
class MaskCriterion(nn.Module):
    """Cross-entropy of all queries' classes, and cross-entropy and dice of the masks that are matched to segments.

    Masks are compared at points (see `points`), for the matching at uniform random ones, for the loss mostly where the
    prediction is uncertain. Pixels without a label are ignored. Everything is computed in float32.

    Args:
        points: Per mask.
        oversample: See `uncertain_points`.
        importance: See `uncertain_points`.
        mask_weight: Of the cross-entropy of masks, in the loss and in the matching.
        dice_weight: Of the dice loss, likewise.
        class_weight: Of the cross-entropy of classes, likewise.
        no_object_weight: Of the queries without a match, in the cross-entropy of the classes.
    """

    def __init__(
        self,
        points: int = 12544,
        oversample: float = 3.0,
        importance: float = 0.75,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        class_weight: float = 2.0,
        no_object_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if points < 1 or oversample < 1 or not 0 <= importance <= 1:
            raise OptionError(
                f"points {points} and oversample {oversample} must be at least 1, importance {importance} in 0…1"
            )
        self.points = points
        self.oversample = oversample
        self.importance = importance
        self.weights = Weights(mask_weight, dice_weight, class_weight)
        self.no_object_weight = no_object_weight

    def forward(self, predictions: Sequence[Masks], segments: Sequence[Segments]) -> dict[str, Tensor]:
        """`loss_class`, `loss_mask` and `loss_dice`, summed over predictions (one for every block that made one).

        Args:
            predictions: Of the same images.
            segments: The ground truth of every image; masks of one size, that of the padded batch.
        """
        count = predictions[0].logits.new_tensor(sum(len(each.labels) for each in segments), dtype=torch.float32)
        count = _mean_of_processes(count).clamp_min(1)
        with torch.autocast(predictions[0].logits.device.type, enabled=False):
            losses = [self._losses(Masks(*(t.float() for t in each)), segments, count) for each in predictions]
        return {name: sum(each[name] for each in losses) for name in losses[0]}  # type: ignore[misc]

    def _losses(self, masks: Masks, segments: Sequence[Segments], count: Tensor) -> dict[str, Tensor]:
        matches = [self._match(*each) for each in zip(masks.logits, masks.class_logits, segments, strict=True)]
        mask_loss, dice_loss = self._mask_losses(masks.logits, segments, matches, count)
        return {
            "loss_class": self.weights.label * self._class_loss(masks.class_logits, segments, matches),
            "loss_mask": self.weights.mask * mask_loss,
            "loss_dice": self.weights.dice * dice_loss,
        }

    def _match(self, logits: Tensor, class_logits: Tensor, truth: Segments) -> Match:
        points = torch.rand(1, self.points, 2, device=logits.device)

        def read(maps: Tensor) -> Tensor:
            return read_points(maps.float(), points.expand(len(maps), -1, -1))

        with torch.no_grad():
            valid = read(truth.valid[None])[0].round()
            return match(read(logits), class_logits, read(truth.masks), truth.labels, valid, self.weights)

    def _class_loss(self, logits: Tensor, segments: Sequence[Segments], matches: Sequence[Match]) -> Tensor:
        no_object = logits.shape[-1] - 1
        target = logits.new_full(logits.shape[:2], no_object, dtype=torch.int64)  # [B, Q]
        for row, truth, pairs in zip(target, segments, matches, strict=True):
            row[pairs.queries] = truth.labels[pairs.objects]
        weight = logits.new_ones(no_object + 1)
        weight[no_object] = self.no_object_weight
        entropy = F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight, reduction="sum")
        return entropy / _mean_of_processes(weight[target].sum())

    def _mask_losses(
        self, logits: Tensor, segments: Sequence[Segments], matches: Sequence[Match], count: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = torch.cat([image[pairs.queries] for image, pairs in zip(logits, matches, strict=True)])  # [M, h, w]
        if len(found) == 0:  # keeps the masks in the graph, as DDP demands
            return logits.sum() * 0, logits.sum() * 0
        points = uncertain_points(found, self.points, self.oversample, self.importance)  # [M, P, 2]
        read = read_points(found, points)
        with torch.no_grad():
            target, valid = _read_truth(segments, matches, points)
        entropy = F.binary_cross_entropy_with_logits(read, target, reduction="none") * valid
        entropy = entropy.sum(1) / valid.sum(1).clamp_min(1)
        probability, target = read.sigmoid() * valid, target * valid
        dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
        return entropy.sum() / count, dice.sum() / count


def _mean_of_processes(value: Tensor) -> Tensor:
    """A divisor that is the same everywhere: several processes then have the gradient of one with all their images."""
    all_reduce(value)
    return value / get_world_size()


def _read_truth(segments: Sequence[Segments], matches: Sequence[Match], points: Tensor) -> tuple[Tensor, Tensor]:
    """Matched masks, and whether anything is known, at the points of each mask; both float32 [M, P]."""
    targets, valids = [], []
    parts = points.split([len(pairs.queries) for pairs in matches])
    for truth, pairs, each in zip(segments, matches, parts, strict=True):
        if len(each):
            targets.append(read_points(truth.masks[pairs.objects].float(), each))
            # one map for all masks of the image: their points are laid end to end
            valid = read_points(truth.valid[None].float(), each.flatten(0, 1)[None])[0].round()
            valids.append(valid.unflatten(0, (len(each), -1)))
    return torch.cat(targets), torch.cat(valids)
