"""How well a student agrees with its teachers on held-out images."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class AlignmentMetric(BaseMetric):
    """Means over images of what `SpatialAlignment` finds in mode "predict", with nothing hidden.

    `align/semantic_cosine`: mean cosine between tokens of student and teacher (after the projection, if there is one).
    `align/locality_error`: mean squared difference of the pairwise matrices, the loss itself.
    `align/locality_agreement`: Pearson's correlation of the two matrices off the diagonal.
    `align/global_tokens`: share of tokens that more than half of the others attend to, in the block with most of them.
    """

    default_prefix = "align"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the values of a batch."""
        self.results += [sample["alignment"] for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means."""
        return {name: sum(values[name] for values in results) / len(results) for name in results[0]}
