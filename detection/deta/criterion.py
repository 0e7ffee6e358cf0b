"""The losses of encoder and decoder.

Letters: B images, N predictions of an image, K classes, M matched pairs of the batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from pe_spatial.detection.deta.boxes import to_corners
from pe_spatial.detection.deta.matching import IoUMatching, MatchedPairs, OneToOneMatching, Target
from pe_spatial.detection.deta.transformer import Prediction, Predictions


def prediction_losses(
    prediction: Prediction, targets: Sequence[Target], pairs: Sequence[MatchedPairs], number: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss (alpha 0.25, gamma 2) of all logits, and L1 and generalized IoU loss of the matched boxes.

    Args:
        prediction: Of tokens or queries.
        targets: One per image.
        pairs: One per image.
        number: Of objects, by which each sum is divided.
    """
    image = torch.cat([torch.full_like(p.predictions, i) for i, p in enumerate(pairs)])  # [M]
    row = torch.cat([p.predictions for p in pairs])
    labels = torch.cat([t.labels[p.objects] for t, p in zip(targets, pairs, strict=True)])
    boxes = torch.cat([t.boxes[p.objects] for t, p in zip(targets, pairs, strict=True)])
    logits = prediction.logits.float()
    background = logits.shape[-1]
    wanted = torch.full(logits.shape[:2], background, device=logits.device)  # [B, N]
    wanted[image, row] = labels
    wanted = torch.zeros_like(logits[..., :1]).expand(-1, -1, background + 1).scatter(2, wanted[..., None], 1.0)
    found = prediction.boxes[image, row]
    return (
        sigmoid_focal_loss(logits, wanted[..., :-1], alpha=0.25, gamma=2, reduction="sum") / number,
        F.l1_loss(found, boxes, reduction="sum") / number,
        generalized_box_iou_loss(to_corners(found), to_corners(boxes), reduction="sum") / number,
    )


class Criterion:
    """Losses of all decoder layers and of the encoder, for which every object is of class 0.

    Args:
        matching: How predictions and objects are matched.
        weights: Of the focal, the L1 and the generalized IoU loss.
    """

    def __init__(self, matching: IoUMatching | OneToOneMatching, weights: Sequence[float]) -> None:
        self.matching = matching
        self.weights = weights

    def __call__(self, predictions: Predictions, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return `loss_class`, `loss_bbox` and `loss_giou` of every decoder layer and of the encoder.

        The names of the last layer have no suffix; those of layer i end in `_i`. If the encoder proposes, its losses
        end in `_enc`. All losses are divided by the number of objects, averaged over processes.
        """
        number = predictions.layers[-1].boxes.new_tensor(float(sum(len(t.labels) for t in targets)))
        all_reduce(number, "mean")
        count = max(number.item(), 1.0)
        *_, last = predictions.layers
        losses: dict[str, Tensor] = {}
        matched = self.matching.decoder(predictions.layers, targets)
        for i, (layer, pairs) in enumerate(zip(predictions.layers, matched, strict=True)):
            losses |= self._named("" if layer is last else f"_{i}", layer, targets, pairs, count)
        if predictions.encoder is None:
            return losses
        pairs = self.matching.encoder(predictions.encoder, targets)
        nameless = [Target(t.boxes, torch.zeros_like(t.labels)) for t in targets]
        return losses | self._named("_enc", predictions.encoder, nameless, pairs, count)

    def _named(
        self,
        suffix: str,
        prediction: Prediction,
        targets: Sequence[Target],
        pairs: Sequence[MatchedPairs],
        count: float,
    ) -> dict[str, Tensor]:
        values = prediction_losses(prediction, targets, pairs, count)
        names = ("loss_class", "loss_bbox", "loss_giou")
        return {name + suffix: w * value for name, w, value in zip(names, self.weights, values, strict=True)}
