"""What the tokens of a student tell of labels: neighbors in other images, and a linear probe, without training steps.

Letters: M tokens of all images; C channels; K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.registry import METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn import functional as F

from pe_spatial.backbones.contract import build_backbone
from pe_spatial.common.errors import ConfigError, OptionError, require_positive
from pe_spatial.data.sample import IGNORE_LABEL
from pe_spatial.training.explanation import ExplainedMetric, Measure, percent

_CHUNK = 1 << 22  # similarities that exist at a time


@MODELS.register_module()
class TokenLabeler(nn.Module):
    """Pairs tokens with the class that covers most of their cell, for `TokenLabelMetric`.

    Args:
        backbone: With one map; or its config.
        tokens: Of an image, at most; chosen evenly.
    """

    def __init__(self, backbone: nn.Module | Mapping[str, Any], tokens: int = 256) -> None:
        super().__init__()
        require_positive(tokens=tokens)
        self.backbone = build_backbone(backbone, type(self).__name__, maps=1, needs=("mean", "std"))
        self.tokens = tokens

    @torch.no_grad()
    def test_step(self, data: Mapping[str, Any]) -> list[BaseDataElement]:
        """Fill each sample's `tokens` [n, C] and `token_labels` [n]; cells that are mostly ignored are left out.

        Args:
            data: `inputs`, uint8 [3, H, W] each, multiples of the patch size, and `data_samples` with `gt_sem_seg`.

        Raises:
            ConfigError: A sample without labels.
        """
        samples = list(data["data_samples"])
        device = next(self.backbone.parameters()).device
        for image, sample in zip(data["inputs"], samples, strict=True):
            if "gt_sem_seg" not in sample:
                raise ConfigError(
                    f"{sample.get('img_path')}: TokenLabeler needs gt_sem_seg; load label maps in the pipeline"
                )
            pixels = image.to(device).float()
            mean, std = (pixels.new_tensor(each).view(3, 1, 1) for each in (self.backbone.mean, self.backbone.std))
            features = self.backbone(((pixels - mean) / std)[None])[0][0].float()  # [C, h, w]
            labels = majority(sample.gt_sem_seg.data[0].to(device), (features.shape[1], features.shape[2])).flatten()
            valid = (labels != IGNORE_LABEL).nonzero().flatten()
            chosen = valid[torch.linspace(0, len(valid) - 1, min(self.tokens, len(valid))).long().to(device)]
            tokens = features.flatten(1).T[chosen].cpu()
            sample.set_metainfo({"tokens": tokens, "token_labels": labels[chosen].cpu()})
        return samples


def majority(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The class that covers most of each cell of a label map [H, W]: [h, w]."""
    classes = labels.unique()
    shares = torch.stack([F.adaptive_avg_pool2d((labels == each).float()[None], grid)[0] for each in classes])
    return classes[shares.argmax(0)]


@METRICS.register_module()
class TokenLabelMetric(ExplainedMetric):
    """What tokens tell of labels, judged on images that they did not learn from.

    `labels/neighbors`: mean over classes of the IoU of tokens that get the class of their `k` most similar tokens in
    other images, weighted by exp(cosine / 0.07) as in DINO.
    `labels/linear`: the same of a ridge regression on standardized tokens, of one half of the images and judged on the
    other, and back.

    Args:
        k: Neighbors.
        ridge: Of the regression, for standardized tokens, as a share of their number.

    Raises:
        OptionError: A value outside its range.
    """

    default_prefix = "labels"
    headline = ("linear",)
    fewest: ClassVar[int] = 2  # images, for tokens are judged by other images
    measures: ClassVar[dict[str, Measure]] = {
        "neighbors": percent("neighbors", "mIoU of tokens by their most similar ones in other images"),
        "linear": percent("linear probe", "mIoU of tokens by ridge regression on the other half of the images"),
    }

    def __init__(self, k: int = 20, ridge: float = 1e-2) -> None:
        super().__init__()
        require_positive(k=k)
        if not ridge > 0:
            raise OptionError(f"ridge {ridge} must be above 0; channels that repeat each other need some")
        self.k = k
        self.ridge = ridge

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Collect tokens and labels."""
        self.results += [(sample["tokens"], sample["token_labels"]) for sample in data_samples]

    def compute_metrics(self, results: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Both numbers.

        Raises:
            ConfigError: Fewer than two images, so that there are no others.
        """
        if len(results) < self.fewest:
            raise ConfigError(f"{len(results)} images with labels; a trial on labels needs at least {self.fewest}")
        tokens = torch.cat([tokens for tokens, _ in results])  # [M, C]
        classes, labels = torch.cat([labels for _, labels in results]).unique(return_inverse=True)
        images = torch.cat([torch.full((len(each),), number) for number, (each, _) in enumerate(results)])
        by_neighbors = neighbors(tokens, labels, images, len(classes), self.k)
        by_regression = torch.empty_like(labels)
        for part in (images % 2 == 0, images % 2 == 1):
            by_regression[part] = regressed(tokens[~part], labels[~part], tokens[part], len(classes), self.ridge)
        return {"neighbors": mean_iou(by_neighbors, labels), "linear": mean_iou(by_regression, labels)}


def neighbors(tokens: Tensor, labels: Tensor, images: Tensor, classes: int, k: int) -> Tensor:
    """The class [M] of each token [M, C] by its most similar tokens in other images.

    Args:
        tokens: Of all images.
        labels: [M], 0…classes - 1.
        images: Number of the image of each token, [M].
        classes: How many.
        k: Neighbors.
    """
    unit, onehot = F.normalize(tokens, dim=-1), F.one_hot(labels, classes).float()
    found = []
    for rows in torch.arange(len(tokens)).split(max(_CHUNK // len(tokens), 1)):
        similar = unit[rows] @ unit.T
        similar[images[rows][:, None] == images] = -torch.inf
        values, places = similar.topk(min(k, len(tokens)), dim=1)
        votes = ((values - values[:, :1]) / 0.07).exp()[..., None] * onehot[places]
        found.append(votes.sum(1).argmax(1))
    return torch.cat(found)


def regressed(known: Tensor, labels: Tensor, asked: Tensor, classes: int, ridge: float) -> Tensor:
    """The class of tokens [A, C] by ridge regression of the classes of known tokens [M, C], standardized."""
    mean, deviation = known.double().mean(0), known.double().std(0).clamp_min(1e-12)
    x, y = (known.double() - mean) / deviation, F.one_hot(labels, classes).double()
    center = y.mean(0)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - center))
    return ((asked.double() - mean) / deviation @ weights + center).argmax(1)


def mean_iou(predicted: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of intersection over union, of tokens [M]."""
    found = []
    for each in labels.unique():
        ours, theirs = predicted == each, labels == each
        found.append((ours & theirs).sum() / (ours | theirs).sum())
    return float(torch.stack(found).mean())
