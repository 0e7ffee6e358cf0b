"""How the box head classifies: softmax with a background class, or independent sigmoids with a federated loss.

R boxes, K classes; label K is background. Logits have K + 1 columns in both cases.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.errors import ConfigError


@MODELS.register_module()
class SoftmaxLoss(nn.Module):
    """Cross-entropy over the classes and the background."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of `logits` [R, K + 1] for `labels` [R]; 0 with a gradient where R is 0."""
        return F.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities [R, K] of the classes."""
        return logits.float().softmax(dim=1)[:, :-1]


@MODELS.register_module()
class FederatedLoss(nn.Module):
    """Sigmoid cross-entropy over the classes of the batch and some others, for datasets annotated class by class.

    The classes that occur among the sampled boxes (background included) are filled up to `num_classes_sampled` by
    drawing others with probability proportional to `frequency ** power`; only those are given a loss, summed and
    divided by R (section 4.1 of "Probabilistic two-stage detection", as in Detectron2).

    Args:
        num_classes_sampled: Classes that are given a loss in a step.
        power: Exponent of the frequency.
    """

    weight: Tensor | None

    def __init__(self, num_classes_sampled: int = 50, power: float = 0.5) -> None:
        super().__init__()
        self.num_classes_sampled = num_classes_sampled
        self.power = power
        self.register_buffer("weight", None, persistent=False)

    def set_frequencies(self, image_counts: Sequence[int]) -> None:
        """Set in how many training images each of the K classes occurs; needed before the first loss."""
        device = None if self.weight is None else self.weight.device
        self.weight = torch.tensor(image_counts, dtype=torch.float32, device=device) ** self.power

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of `logits` [R, K + 1] for `labels` [R].

        Raises:
            ConfigError: The frequencies of the classes are not known.
        """
        if len(labels) == 0:
            return logits.float().sum()
        classes = logits.shape[1] - 1
        target = F.one_hot(labels, classes + 1)[:, :-1].to(torch.float32)  # [R, K]
        loss = F.binary_cross_entropy_with_logits(logits[:, :-1].float(), target, reduction="none")
        return loss[:, self._sampled_classes(labels, classes)].sum() / len(labels)

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities [R, K] of the classes, each on its own."""
        return logits[:, :-1].float().sigmoid()

    def _sampled_classes(self, labels: Tensor, classes: int) -> Tensor:
        if self.weight is None:
            raise ConfigError(
                "FederatedLoss needs the frequency of the classes; train on a dataset whose metainfo has "
                "'image_counts' (LvisInstances) or call set_frequencies"
            )
        present = labels.unique()
        missing = self.num_classes_sampled - len(present)
        if missing > 0:
            weight = self.weight.to(labels.device).clone()
            weight[present[present < classes]] = 0
            missing = min(missing, int(weight.count_nonzero()))
            present = torch.cat([present, torch.multinomial(weight, missing)]) if missing else present
        return present[present < classes]
