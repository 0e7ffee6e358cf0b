"""Boxes: matching to the ground truth, sampling, and regression deltas. Thin layers over torchvision's own pieces.

torchvision's `Matcher`, `BalancedPositiveNegativeSampler` and `BoxCoder` compute what Detectron2's do; what is
added here is single precision and images without objects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.ops import box_iou

from pe_spatial.data import Outline

IGNORED = -1  # label of a candidate that is neither sampled as an object nor as background


class Target(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: [G, 4] xyxy, pixels of the padded input.
        labels: [G] in 0…K-1.
        masks: bool [G, H, W] in the frame of the boxes, or G outlines; empty where only boxes are learned.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | Sequence[Outline] = ()


class Match(NamedTuple):
    """The match of N candidate boxes.

    Attributes:
        label: [N]: 1 (object), 0 (background) or `IGNORED`.
        gt_index: [N], the row of the object in the ground truth; 0 where there is none.
    """

    label: Tensor
    gt_index: Tensor


class DeltaCoder:
    """Boxes as offsets from reference boxes, always in fp32.

    An offset is (dx, dy, dw, dh): the shift of the center over the reference's size, and the logarithm of the ratio
    of sizes, each multiplied by its weight. On decoding, ratios are limited to 1000 / 16.
    """

    def __init__(self, weights: tuple[float, float, float, float]) -> None:
        self._coder = BoxCoder(weights)

    def encode(self, boxes: Tensor, reference: Tensor) -> Tensor:
        """Offsets [N, 4] that lead from `reference` [N, 4] to `boxes` [N, 4]."""
        return self._coder.encode_single(boxes.float(), reference.float())

    def decode(self, deltas: Tensor, reference: Tensor) -> Tensor:
        """Boxes [N, K, 4] from offsets [N, K * 4] and `reference` [N, 4]."""
        decoded = self._coder.decode_single(deltas.float(), reference.float())
        return decoded.reshape(len(reference), deltas.shape[1] // 4, 4)


class Assigner:
    """Matches candidate boxes with objects and samples those that enter a loss.

    Args:
        thresholds: IoU below which a candidate is background and from which it is an object.
        samples: Candidates sampled per image.
        positive_fraction: Largest share of objects among them.
        keep_best: Whether the candidates that fit an object best count as objects below the threshold too.
    """

    def __init__(
        self, thresholds: tuple[float, float], samples: int, positive_fraction: float, keep_best: bool = False
    ) -> None:
        low, high = thresholds
        self._matcher = Matcher(high, low, allow_low_quality_matches=keep_best)
        self._sampler = BalancedPositiveNegativeSampler(samples, positive_fraction)

    def match(self, candidates: Tensor, objects: Tensor) -> Match:
        """Match `candidates` [N, 4] with `objects` [G, 4]; without objects all is background."""
        if len(objects) == 0:
            zeros = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
            return Match(zeros, zeros.clone())
        matched = self._matcher(box_iou(objects, candidates))
        label = (matched >= 0).long()
        label[matched == Matcher.BETWEEN_THRESHOLDS] = IGNORED
        return Match(label, matched.clamp(min=0))

    def sample(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Sample objects and background from labels [N]; returns the indices of both."""
        positive, negative = self._sampler([label])
        return positive[0].nonzero().squeeze(1), negative[0].nonzero().squeeze(1)
