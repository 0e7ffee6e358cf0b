"""The trial on labels: neighbors and linear probe of tokens that tell the class, and of tokens that do not."""

import pytest
import torch
from alignment_scenes import scene
from mmengine.structures import PixelData
from torch import nn
from torch.nn import functional as F

from pe_spatial.alignment.label_trial import TokenLabeler, TokenLabelMetric, majority, mean_iou, neighbors, regressed
from pe_spatial.common.errors import UserError


class MeanColors(nn.Module):
    """The mean color of a patch."""

    mean = std = (127.5, 127.5, 127.5)
    channels, strides = (3,), (8,)

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (self.scale * F.avg_pool2d(x, 8),)


def labeled(number, colors=True):
    """Four classes in quadrants, each of its own color or of none."""
    item = scene(number)
    labels = torch.arange(2).repeat_interleave(16)[:, None] * 2 + torch.arange(2).repeat_interleave(16)
    if colors:
        palette = torch.tensor([[200, 20, 20], [20, 200, 20], [20, 20, 200], [200, 200, 20]], dtype=torch.uint8)
        item["inputs"] = palette[labels].permute(2, 0, 1) + item["inputs"] // 16
    if number % 2:
        item["inputs"], labels = item["inputs"].flip(-1), labels.flip(-1)
    labels = labels.clone()
    labels[:2] = 255
    item["data_samples"].set_field(PixelData(data=labels[None]), "gt_sem_seg", dtype=PixelData)
    return item


def judged(colors, number=6, **options):
    model, metric = TokenLabeler(MeanColors(), **options), TokenLabelMetric(k=5)
    for index in range(number):
        item = labeled(index, colors)
        samples = model.test_step({key: [value] for key, value in item.items()})
        metric.process(item, [sample.to_dict() for sample in samples])
    return metric.compute_metrics(metric.results)


def test_tokens_that_tell_the_class_are_perfect():
    assert judged(True) == {"neighbors": 1.0, "linear": 1.0}
    assert judged(True, tokens=8) == {"neighbors": 1.0, "linear": 1.0}


def test_noise_tells_nothing():
    assert all(value < 0.4 for value in judged(False).values())


def test_the_majority_of_a_cell_counts():
    labels = torch.zeros(4, 4, dtype=torch.long)
    labels[0, :2] = 7
    labels[:2, 2:] = 255
    labels[0, 0] = labels[1, 0] = 7
    assert majority(labels, (2, 2)).tolist() == [[7, 255], [0, 0]]
    assert majority(labels, (4, 4)).equal(labels)


def test_no_token_is_a_neighbor_in_its_own_image():
    tokens = torch.eye(4)[[0, 0, 1, 1]]
    labels, images = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1])
    assert neighbors(tokens, labels, images, 2, 2).tolist() == [1, 1, 0, 0]


def test_the_regression_is_that_of_the_plain_formula():
    torch.manual_seed(0)
    known, asked, labels = torch.randn(40, 3), torch.randn(9, 3), torch.randint(3, (40,))
    x = (known - known.mean(0)) / known.std(0)
    y = F.one_hot(labels, 3).float()
    augmented = torch.cat((x, (0.1 * 40) ** 0.5 * torch.eye(3)))
    solution = torch.linalg.lstsq(augmented, torch.cat((y - y.mean(0), torch.zeros(3, 3)))).solution
    expected = ((asked - known.mean(0)) / known.std(0) @ solution + y.mean(0)).argmax(1)
    assert torch.equal(regressed(known, labels, asked, 3, 0.1), expected)


def test_the_mean_iou_is_over_classes():
    assert mean_iou(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])) == pytest.approx(0.5)


def test_what_is_missing_is_named():
    item = scene(0)
    with pytest.raises(UserError, match="0.png: TokenLabeler needs gt_sem_seg"):
        TokenLabeler(MeanColors()).test_step({key: [value] for key, value in item.items()})
    with pytest.raises(UserError, match="1 images with labels; a trial on labels needs at least 2"):
        judged(True, number=1)
    with pytest.raises(UserError, match="ridge 0 must be above 0"):
        TokenLabelMetric(ridge=0)
