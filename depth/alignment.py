"""Alignments that remove from a prediction what a relative model cannot know, before it is judged.

All functions take the valid pixels of one image as float64 [P] and return the aligned prediction [P].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pe_spatial.common.errors import OptionError


def align_median(prediction: Tensor, target: Tensor) -> Tensor:
    """Multiply by the ratio of the medians (Zhou et al. 2017).

    Raises:
        OptionError: The median of the prediction is not positive.
    """
    median = _median(prediction)
    if not median > 0:
        raise OptionError(f"the median of the prediction is {median:g}; median alignment needs positive depth")
    return prediction * (_median(target) / median)


def align_scale_shift(prediction: Tensor, target: Tensor) -> Tensor:
    """Return scale * prediction + shift with the least squared error against the target.

    A constant prediction determines no scale; it becomes the mean of the target.
    """
    mean, target_mean = prediction.mean(), target.mean()
    centered = prediction - mean
    power = centered.square().sum()
    if power <= (torch.finfo(prediction.dtype).eps * mean) ** 2 * len(prediction):
        return target_mean.expand_as(prediction)
    scale = (centered * (target - target_mean)).sum() / power
    return scale * centered + target_mean


def _median(values: Tensor) -> Tensor:
    """The middle value, or the mean of the two in the middle; torch.median takes the lower of them."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


ALIGNMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "median": align_median,
    "scale_shift": align_scale_shift,
}
