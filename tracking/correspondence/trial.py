"""How well an encoder finds places again, as a model and a metric: a trial of a student while it is trained."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.registry import METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.backbones.contract import build_backbone
from pe_spatial.common.errors import OptionError
from pe_spatial.common.parts import build_options
from pe_spatial.tracking.correspondence.homographies import Homographies
from pe_spatial.tracking.correspondence.matching import match_errors
from pe_spatial.training.explanation import ExplainedMetric, Measure, percent


@MODELS.register_module()
class PhotographMatcher(nn.Module):
    """Matches photographs with views of themselves, of which every true place is known: labels for free.

    Args:
        backbone: With one map; or its config.
        homographies: Fields of `Homographies`; their side must be a multiple of the patch size.

    Raises:
        ConfigError: An unknown field of `homographies`, or one outside its range.
        OptionError: A side that is no multiple of the patch size.
    """

    def __init__(self, backbone: nn.Module | Mapping[str, Any], homographies: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, type(self).__name__, maps=1, needs=("mean", "std"))
        self.homographies = build_options(Homographies, homographies or {}, "homographies")
        patch, side = int(getattr(self.backbone, "patch_size", self.backbone.strides[0])), self.homographies.side
        if side % patch:
            raise OptionError(f"homographies.side {side} is not a multiple of the encoder's patch size {patch}")

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Any]) -> list[BaseDataElement]:
        """Fill each sample's `matching`: mean over views of what `MatchingMetric` reports.

        Args:
            data: `inputs`, uint8 [3, H, W] each, and `data_samples`.
        """
        samples = list(data["data_samples"])
        stride = int(self.backbone.strides[0])
        for image, sample in zip(data["inputs"], samples, strict=True):
            picture = self.homographies.square(np.asarray(image.permute(1, 2, 0).cpu()))
            first = self._unit_map(picture)
            errors = []
            for seed in range(self.homographies.number):
                view, matrix = self.homographies.view(picture, seed)
                errors.append(match_errors(first, self._unit_map(view), matrix, stride) / stride)
            matched = float(np.mean([(found <= 1).mean() for found in errors]))
            median = float(np.mean([np.median(found) for found in errors]))
            sample.set_metainfo({"matching": {"matched": matched, "median_error": median}})
        return samples

    def _unit_map(self, picture: Any) -> Tensor:
        """Unit vectors [h, w, C] of a picture [H, W, 3]."""
        device = next(self.backbone.parameters()).device
        pixels = torch.from_numpy(picture).to(device).permute(2, 0, 1).float()  # [3, H, W]
        mean, std = (pixels.new_tensor(each).view(3, 1, 1) for each in (self.backbone.mean, self.backbone.std))
        features = self.backbone(((pixels - mean) / std)[None])[0][0].float()  # [C, h, w]
        return F.normalize(features, dim=0).permute(1, 2, 0)


@METRICS.register_module()
class MatchingMetric(ExplainedMetric):
    """Means over photographs of what `PhotographMatcher` finds.

    `match/matched`: share of tokens whose most similar token in the view lies within one patch of the true place.
    `match/median_error`: distance to the true place in patches, median over tokens.
    """

    default_prefix = "match"
    headline = ("matched",)
    measures: ClassVar[dict[str, Measure]] = {
        "matched": percent("matched", "share of tokens that are found again within one patch in a view"),
        "median_error": Measure("median error", "patches to the true place, median of tokens", higher_is_better=False),
    }

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect the values of a batch."""
        self.results += [sample["matching"] for sample in data_samples]

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means."""
        return {name: sum(values[name] for values in results) / len(results) for name in results[0]}
