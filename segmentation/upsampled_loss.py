"""The cross-entropy of scores that are enlarged to their labels, one picture at a time."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = torch.finfo(torch.float32).eps  # of mmseg, where no pixel is labeled


def upsampled_cross_entropy(scores: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of the labeled pixels, and how many percent of them have the greatest score.

    To rounding what `F.interpolate(scores, labels.shape[-2:], mode="bilinear")`, mmseg's `CrossEntropyLoss` with
    `avg_non_ignore` and its `accuracy` give. Bilinear interpolation is a matrix for the rows and one for the columns,
    A S B^T, so its gradient is A^T G B; both are matrix products, and the gradient of a picture is taken while its
    pixels are still in the processor's cache. It needs memory for the pixels of one picture instead of the batch.
    Computed in float32 under automatic mixed precision, too.

    Args:
        scores: [B, K, h, w], before the softmax.
        labels: Integers [B, 1, H, W] from 0 to K-1, or `ignore_index`.
        ignore_index: The label of pixels that do not count.

    Returns:
        Two scalars; the first has a gradient. Without any labeled pixel they are 0 and 100, as mmseg's.
    """
    with torch.autocast(scores.device.type, enabled=False):
        loss, right = _UpsampledCrossEntropy.apply(scores.float(), labels, ignore_index)
    return loss, right


class _UpsampledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (B, K), (H, W) = scores.shape[:2], labels.shape[-2:]
        rows = _interpolation(scores.shape[-2], H, scores.device)  # [H, h]
        columns = _interpolation(scores.shape[-1], W, scores.device)  # [W, w]
        kind = torch.int32 if K * H * W < 2**31 else torch.int64  # the smaller is faster
        classes = labels.view(B, -1).to(kind)
        ignored = classes == ignore_index if 0 <= ignore_index < K or int(classes.max()) >= K else None
        if ignored is not None:
            classes = classes.masked_fill(ignored, 0)  # one that exists
        # where the score of the label lies among the [K * H * W] of its picture
        places = torch.arange(H * W, dtype=kind, device=scores.device).add(classes, alpha=H * W)
        wide = scores @ columns.T  # [B, K, h, W]
        gradient, pixels = torch.empty_like(scores), scores.new_empty(K, H, W)  # pixels of one picture
        minus_one = scores.new_full((H * W,), -1.0)
        own, greatest, certainty = scores.new_empty(3, B, H * W)
        for number, (place, own_score, maximum, share) in enumerate(zip(places, own, greatest, certainty, strict=True)):
            torch.matmul(rows, wide[number], out=pixels)
            torch.index_select(pixels.view(-1), 0, place, out=own_score)
            torch.amax(pixels.view(K, -1), 0, out=maximum)
            shares = pixels.softmax(0).view(K, -1)
            torch.amax(shares, 0, out=share)
            shares.view(-1).index_add_(0, place, minus_one)  # softmax less the label: the gradient
            if ignored is not None:
                shares.masked_fill_(ignored[number], 0)
            gradient[number] = (rows.T @ shares.view(K, H, W)) @ columns
        behind, count = greatest.sub_(own), scores.new_tensor(float(places.numel()))
        if ignored is not None:
            behind.masked_fill_(ignored, 0)
            certainty.masked_fill_(ignored, 1)
            count -= ignored.sum()
        right = count - behind.sign().sum()
        # the log of the sum over the classes is the greatest score less the log of its share, which is at least 1 / K
        loss = behind.sum() - certainty.log_().sum()
        loss, right = loss / (count + _EPS), 100 * (right + _EPS) / (count + _EPS)
        ctx.save_for_backward(gradient.div_(count + _EPS))
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx, grad_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        (gradient,) = ctx.saved_tensors
        return gradient * grad_loss, None, None


@lru_cache(maxsize=64)
def _interpolation(cells: int, pixels: int, device: torch.device) -> Tensor:
    """[pixels, cells]: linear interpolation of a line, as torch computes it."""
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(cells, device=device)[None]  # [1, cells, cells]
        return F.interpolate(identity, size=pixels, mode="linear", align_corners=False)[0].T.contiguous()
