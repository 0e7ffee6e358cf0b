"""How well a student agrees with its teachers, on whole images."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmengine.registry import METRICS
from torch import Tensor
from torch.nn import functional as F

from pe_spatial.training.explanation import ExplainedMetric, Measure


@METRICS.register_module()
class AlignmentMetric(ExplainedMetric):
    """Means over images of what `SpatialAlignment` finds in mode "predict", with nothing hidden.

    `align/semantic_cosine`: mean cosine between tokens of student and teacher (after the projection, if there is one).
    `align/locality_error`: mean squared difference of the pairwise matrices, the loss itself.
    `align/locality_agreement`: Pearson's correlation of the two matrices off the diagonal.
    `align/effective_rank`: see `effective_rank`; it falls where tokens become alike.
    `align/global_tokens`: share of tokens that more than half of the others attend to, in the block with most of them.
    """

    default_prefix = "align"
    headline = ("semantic_cosine", "locality_agreement")
    measures: ClassVar[dict[str, Measure]] = {
        "semantic_cosine": Measure("semantic cosine", "mean cosine between tokens of student and teacher"),
        "locality_error": Measure(
            "locality error", "mean squared difference of the pairwise matrices", higher_is_better=False
        ),
        "locality_agreement": Measure("locality agreement", "correlation of the two pairwise matrices"),
        "effective_rank": Measure("effective rank", "directions that the tokens of an image fill; 1: all are one"),
        "global_tokens": Measure("global tokens", "share of tokens that most others attend to", higher_is_better=False),
    }

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the values of a batch."""
        self.results += [sample["alignment"] for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means."""
        return {name: sum(values[name] for values in results) / len(results) for name in results[0]}


def pairwise_cosines(tokens: Tensor) -> Tensor:
    """[N, K] to [N, N]."""
    unit = F.normalize(tokens.float(), dim=-1)
    return unit @ unit.T


def effective_rank(tokens: Tensor) -> float:
    """How many directions centered tokens [N, C] fill (Roy & Vetterli, 2007): exp of the entropy of singular values.

    At most min(N - 1, C); 1 where all lie on a line; NaN where all are one.
    """
    values = torch.linalg.svdvals(tokens.double() - tokens.double().mean(0))
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, of what stands off the diagonal of two matrices [N, N]; 0 where one of them is constant."""
    outside = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    a, b = a[outside].double(), b[outside].double()
    a, b = a - a.mean(), b - b.mean()
    scale = (a.norm() * b.norm()).clamp_min(1e-12)
    return float(a @ b / scale)
