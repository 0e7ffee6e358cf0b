"""Samples that are made of a batch of labels."""

import pytest
import torch

from pe_spatial.data.stacked import StackedSamples, stack_labels


def test_samples_are_views_of_the_batch():
    labels = {"gt_sem_seg": torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2), "gt_depth": torch.rand(2, 1, 2, 2)}
    batch = StackedSamples(labels, lambda place: {"img_path": f"{place}.png"})
    assert len(batch) == 2 and [sample.img_path for sample in batch] == ["0.png", "1.png"]
    assert batch[-1].img_path == "1.png" and batch[1:][0].img_path == "1.png"
    assert batch[1].gt_sem_seg.data.dtype == torch.int64  # what losses take
    for field, values in labels.items():
        assert stack_labels(batch, field) is values
        torch.testing.assert_close(stack_labels(list(batch), field), values, check_dtype=False)
    with pytest.raises(IndexError):
        batch[2]
