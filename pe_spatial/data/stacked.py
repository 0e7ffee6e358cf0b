"""Data samples whose labels are tensors of the batch already; a sample of its own is made when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import torch
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor


class StackedSamples(Sequence[BaseDataElement]):
    """The data samples of a batch.

    Args:
        labels: Labels of pixels [B, 1, H, W] by field; integers of any type stand for int64.
        metainfo: Of a sample, by its place in the batch.
    """

    def __init__(self, labels: Mapping[str, Tensor], metainfo: Callable[[int], Mapping[str, Any]]) -> None:
        self.labels = labels
        self.metainfo = metainfo

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    @overload
    def __getitem__(self, place: int) -> BaseDataElement: ...
    @overload
    def __getitem__(self, place: slice) -> list[BaseDataElement]: ...
    def __getitem__(self, place: int | slice) -> BaseDataElement | list[BaseDataElement]:
        """A sample; changes of it are not kept."""
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        place = range(len(self))[place]  # counted from the end, or an IndexError
        sample = BaseDataElement(metainfo=dict(self.metainfo(place)))
        for field, values in self.labels.items():
            data = values[place]
            data = data if data.is_floating_point() else data.long()
            sample.set_field(PixelData(data=data), field, dtype=PixelData)
        return sample

    def to(self, device: torch.device) -> "StackedSamples":
        """The same with its labels on a device."""
        labels = {field: values.to(device, non_blocking=True) for field, values in self.labels.items()}
        return StackedSamples(labels, self.metainfo)


def stack_labels(samples: Sequence[BaseDataElement], field: str) -> Tensor:
    """The labels of a batch [B, 1, H, W]; integers are of any type."""
    if isinstance(samples, StackedSamples):
        return samples.labels[field]
    return torch.stack([sample.get(field).data for sample in samples])
