"""Losses between predicted and measured depth. Only valid pixels count; without any, loss and gradient are 0.

Shapes: B images, H rows, W columns. Depth is in meters, or in the model's own unit where a model is relative. A loss
has a `name`, and says in `fixes_scale` whether a prediction of the wrong overall scale costs anything.
"""

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError


@MODELS.register_module()
class ScaleInvariantLogLoss(nn.Module):
    """sqrt(mean(g²) - invariance * mean(g)²) over the valid pixels of the batch, with g = ln(prediction / measurement).

    Eigen et al., "Depth map prediction from a single image using a multi-scale deep network" (2014), equation 4, with
    the square root of AdaBins.

    Args:
        invariance: 0 punishes a wrong overall scale like any other error, 1 not at all; 0.85 is the habit for metric
            depth.
        eps: Added to both depths, in their unit: without it the nearest pixels would dominate.
        loss_weight: Factor of the result.
    """

    name = "silog"

    def __init__(self, invariance: float = 0.85, eps: float = 0.001, loss_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 <= invariance <= 1:
            raise OptionError(f"invariance {invariance} is not between 0 (metric) and 1 (scale-invariant)")
        self.invariance = invariance
        self.fixes_scale = invariance < 1
        self.eps = eps
        self.loss_weight = loss_weight

    def forward(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The loss as a scalar.

        Args:
            prediction: [B, 1, H, W], not negative.
            target: [B, 1, H, W].
            valid: bool [B, 1, H, W], pixels with a measurement.
        """
        ratio = _log_ratio(prediction, target, valid, self.eps)[valid]  # [P]
        if ratio.numel() == 0:
            return _zero_loss(prediction)
        # population variance + (1 - invariance) * mean², which does not cancel as the difference of squares does
        variance = ratio.var(correction=0) + (1 - self.invariance) * ratio.mean().square()
        # the slope of a square root at 0 is infinite; a perfect prediction needs the gradient 0
        positive = variance > 0
        return self.loss_weight * torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)


@MODELS.register_module()
class MultiScaleGradientLoss(nn.Module):
    """Sum over scales of the mean absolute difference of g = ln(prediction / measurement) between neighbors.

    Scale s sees every 2^s-th pixel in both directions; a pair of neighbors counts where both are valid. It sharpens
    edges and says nothing of the overall scale. After Li and Snavely, "MegaDepth" (2018), equation 4, which divides by
    the number of pixels instead of pairs.

    Args:
        scales: Number of scales.
        eps: Added to both depths, in their unit.
        loss_weight: Factor of the result.
    """

    name = "gradient"
    fixes_scale = False

    def __init__(self, scales: int = 4, eps: float = 0.001, loss_weight: float = 0.5) -> None:
        super().__init__()
        if scales < 1:
            raise OptionError(f"scales {scales} must be at least 1")
        self.scales = scales
        self.eps = eps
        self.loss_weight = loss_weight

    def forward(self, prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """The loss as a scalar; arguments as those of `ScaleInvariantLogLoss`."""
        ratio = _log_ratio(prediction, target, valid, self.eps)
        total = _zero_loss(prediction)
        for scale in range(self.scales):
            step = 2**scale
            for axis in (-2, -1):
                difference, pairs = _neighbors(ratio[..., ::step, ::step], valid[..., ::step, ::step], axis)
                if pairs.any():
                    total = total + difference[pairs].abs().mean()
        return self.loss_weight * total


def _log_ratio(prediction: Tensor, target: Tensor, valid: Tensor, eps: float) -> Tensor:
    """ln((prediction + eps) / (target + eps)) in fp32, 0 where not valid.

    The invalid pixels are replaced before the logarithm: an infinite value there would make the gradient NaN.
    """
    prediction = torch.where(valid, prediction.float(), 1.0)
    target = torch.where(valid, target.float(), 1.0)
    return (prediction + eps).log() - (target + eps).log()


def _neighbors(values: Tensor, valid: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Differences along an axis, and where both ends are valid."""
    pairs = valid.shape[axis] - 1
    return values.diff(dim=axis), valid.narrow(axis, 0, pairs) & valid.narrow(axis, 1, pairs)


def _zero_loss(prediction: Tensor) -> Tensor:
    """0 that still belongs to the graph, so that backward runs on a batch without valid pixels."""
    return prediction.flatten()[:0].float().sum()
