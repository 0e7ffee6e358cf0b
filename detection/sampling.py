"""Repeat-factor sampling: images with rare classes come more often."""

from collections import Counter
from typing import Any

import torch
from mmengine.registry import DATA_SAMPLERS
from torch import Tensor

from pe_spatial.common.errors import OptionError
from pe_spatial.data import DrawSampler


@DATA_SAMPLERS.register_module()
class RepeatFactorSampler(DrawSampler):
    """A stream in which an image comes r = max over its classes c of max(1, sqrt(threshold / f(c))) times an epoch.

    f(c) is the fraction of images with class c; the fraction of r is rounded up or down at random, anew in every epoch
    (appendix B of "LVIS: A dataset for large vocabulary instance segmentation").

    Args:
        dataset: Offers `get_cat_ids(index)`.
        threshold: Fraction of images from which a class is not repeated.
        seed: As in `DrawSampler`.
    """

    def __init__(self, dataset: Any, threshold: float = 0.001, seed: int | None = None) -> None:
        super().__init__(dataset, seed)
        if not 0 < threshold <= 1:
            raise OptionError(f"threshold {threshold} is not a fraction of the images; 0.001 is usual")
        self.repeat_factors = repeat_factors([dataset.get_cat_ids(i) for i in range(len(dataset))], threshold)

    def epoch_indices(self, epoch: int) -> list[int]:
        """Rows of one epoch, repeated and shuffled."""
        generator = self.generator(epoch)
        whole = self.repeat_factors.floor()
        round_up = torch.rand(len(whole), generator=generator) < self.repeat_factors - whole
        indices = torch.repeat_interleave(torch.arange(len(whole)), (whole + round_up).long())
        return indices[torch.randperm(len(indices), generator=generator)].tolist()


def repeat_factors(classes: list[list[int]], threshold: float) -> Tensor:
    """Repeat factors [N] of N images, given the classes of each (each class once)."""
    count = Counter(label for labels in classes for label in labels)
    factor = {label: max(1.0, (threshold * len(classes) / number) ** 0.5) for label, number in count.items()}
    return torch.tensor([max((factor[label] for label in labels), default=1.0) for labels in classes])
