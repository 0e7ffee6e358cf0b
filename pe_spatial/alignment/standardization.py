"""Targets of a teacher with zero mean and equal variances, so that no teacher and no channel outweighs the others.

Letters: K channels of a teacher.
"""

from typing import Literal

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from pe_spatial.common.errors import OptionError, require_choice

Method = Literal["none", "channels", "isotropic"]
METHODS = ("none", "channels", "isotropic")
_LEAST = 1e-4  # deviation of a channel, as a share of that of all: what varies less is constant, and stays so


class TargetStandardization(nn.Module):
    """Running mean and deviation of targets, over all processes, until they are frozen.

    All of its state is in buffers, so that a resumed run goes on exactly.

    Args:
        channels: K.
        method: `none` leaves targets as they are. `channels` divides each channel by its deviation. `isotropic` rotates
            the channels so that all have the same variance, and divides by one number: distances keep their
            proportions. That is what PHI-S does (Ranzinger et al., 2024) by PCA and a Hadamard matrix, which not every
            K has; here the rotation is a product of plane rotations, which every K has. There is no rotation before
            the statistics are frozen, so nothing is learned from such a teacher until then (`ready`).
        freeze_after: Calls of `update` that are counted.

    Raises:
        OptionError: An unknown method, or nothing that could be counted.
    """

    steps: Tensor
    count: Tensor
    mean: Tensor
    scatter: Tensor
    transform: Tensor

    def __init__(self, channels: int, method: Method = "none", freeze_after: int = 1000) -> None:
        super().__init__()
        require_choice("standardize", method, METHODS)
        if freeze_after < 1:
            raise OptionError(f"freeze_after {freeze_after} must be at least 1; standardize: none leaves targets alone")
        self.method = method
        self.freeze_after = freeze_after
        if method == "none":
            return
        square = (channels, channels) if method == "isotropic" else (channels,)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(channels, dtype=torch.float64))
        # sums of squares (or products) of what deviates from the mean
        self.register_buffer("scatter", torch.zeros(square, dtype=torch.float64))
        # what centered targets are multiplied with: a number for each channel, or a matrix
        identity = torch.eye(channels, dtype=torch.float64)
        self.register_buffer("transform", identity if method == "isotropic" else identity.diagonal().clone())

    @property
    def frozen(self) -> bool:
        """Whether the statistics change no more."""
        return self.method == "none" or int(self.steps) >= self.freeze_after

    @property
    def ready(self) -> bool:
        """Whether there is something to learn from; see `isotropic`."""
        return self.method != "isotropic" or self.frozen

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """Count targets [..., K], those of all processes together; nothing once frozen. Collective."""
        if self.frozen:
            return
        rows = targets.detach().flatten(0, -2).double()  # [M, K]
        count = rows.new_tensor(float(len(rows)))
        total = rows.sum(0)
        all_reduce(count)
        all_reduce(total)
        mean = total / count
        rows = rows - mean
        scatter = rows.mT @ rows if self.method == "isotropic" else rows.square().sum(0)
        all_reduce(scatter)
        whole, difference = self.count + count, mean - self.mean
        outer = difference[:, None] * difference if self.method == "isotropic" else difference.square()
        self.scatter += scatter + outer * (self.count * count / whole)  # Chan et al., 1979
        self.mean += difference * (count / whole)
        self.count.copy_(whole)
        self.steps += 1
        self._set_transform()

    def forward(self, targets: Tensor) -> Tensor:
        """Standardized targets, of the same shape [..., K]; at least float32."""
        if self.method == "none":
            return targets
        dtype = torch.promote_types(targets.dtype, torch.float32)
        centered, transform = targets.to(dtype) - self.mean.to(dtype), self.transform.to(dtype)
        with torch.autocast(targets.device.type, enabled=False):
            return centered @ transform.mT if self.method == "isotropic" else centered * transform

    def _set_transform(self) -> None:
        covariance = self.scatter / self.count
        if self.method == "channels":
            deviation = covariance.sqrt()
            least = _LEAST * covariance.mean().sqrt()
            self.transform.copy_(1 / torch.where(deviation > least, deviation, 1.0))
            return
        scale = covariance.diagonal().mean().sqrt()
        if not self.frozen or not scale > 0:
            return
        self.transform.copy_(equalizing_rotation(covariance) / scale)


def equalizing_rotation(covariance: Tensor) -> Tensor:
    """A rotation R, float64 [K, K], after which all channels have one variance: R C R^T has a constant diagonal.

    Each of at most K - 1 plane rotations brings one channel to the mean: of two channels, one below and one above it,
    the angle is a root of (b - m) t^2 - 2 c t + (a - m) = 0 for t, its tangent (a and b are their variances, c their
    covariance, m the mean).

    Args:
        covariance: C, symmetric [K, K].
    """
    C = covariance.double().cpu().clone()
    K = len(C)
    R = torch.eye(K, dtype=torch.float64)
    mean = float(C.diagonal().mean())
    for _ in range(K - 1):
        low, high = int(C.diagonal().argmin()), int(C.diagonal().argmax())
        a, b, c = float(C[low, low]), float(C[high, high]), float(C[low, high])
        if b - mean <= 1e-14 * abs(mean) or mean - a <= 0:
            break
        root = (c * c - (b - mean) * (a - mean)) ** 0.5
        tangent = min((c + root) / (b - mean), (c - root) / (b - mean), key=abs)
        cosine = (1 + tangent * tangent) ** -0.5
        turn = torch.tensor([[cosine, -tangent * cosine], [tangent * cosine, cosine]], dtype=torch.float64)
        pair = [low, high]
        C[pair] = turn @ C[pair]
        C[:, pair] = C[:, pair] @ turn.T
        C[low, low] = mean  # to the last digit, so that it is not chosen again
        R[pair] = turn @ R[pair]
    return R.to(covariance.device)
