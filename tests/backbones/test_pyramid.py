"""The simple feature pyramid against plain torch and the official keys."""

import json

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from pe_spatial.backbones import SimpleFeaturePyramid
from pe_spatial.commands.benchmark.fidelity import GOLDEN
from pe_spatial.commands.benchmark.fidelity.rule import fill


@pytest.mark.parametrize(
    ("stride", "strides"), [(16, (4, 8, 16, 32, 64)), (14, (3.5, 7, 14, 28, 56)), (8, (2, 4, 8, 16, 32))]
)
def test_shapes_channels_and_strides(stride, strides):
    pyramid = MODELS.build({"type": "SimpleFeaturePyramid", "in_channels": 8, "stride": stride, "out_channels": 12})
    assert pyramid.strides == strides
    assert pyramid.channels == (12,) * 5
    levels = pyramid((torch.randn(2, 8, 8, 12),))
    assert isinstance(levels, tuple)
    for level, s in zip(levels, strides, strict=True):
        assert level.shape == (2, 12, 8 * stride / s, 12 * stride / s)


def norm(x, weight, bias):
    mean = x.mean(dim=1, keepdim=True)
    variance = (x - mean).square().mean(dim=1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def finish(x, w, stage, first):
    for i, padding in ((first, 0), (first + 1, 1)):
        x = F.conv2d(x, w[f"{stage}.{i}.weight"], padding=padding)
        x = norm(x, w[f"{stage}.{i}.norm.weight"], w[f"{stage}.{i}.norm.bias"])
    return x


@torch.no_grad()
def test_levels_follow_their_definition():
    pyramid = fill(SimpleFeaturePyramid(16, 16, out_channels=8))
    w = pyramid.state_dict()
    x = torch.randn(2, 16, 6, 5)
    up = F.conv_transpose2d(x, w["simfp_2.0.weight"], w["simfp_2.0.bias"], stride=2)
    up = F.gelu(norm(up, w["simfp_2.1.weight"], w["simfp_2.1.bias"]))
    up = F.conv_transpose2d(up, w["simfp_2.3.weight"], w["simfp_2.3.bias"], stride=2)
    p2 = finish(up, w, "simfp_2", 4)
    p3 = finish(F.conv_transpose2d(x, w["simfp_3.0.weight"], w["simfp_3.0.bias"], stride=2), w, "simfp_3", 1)
    p4 = finish(x, w, "simfp_4", 0)
    p5 = finish(F.max_pool2d(x, 2), w, "simfp_5", 1)
    for level, expected in zip(pyramid((x,)), (p2, p3, p4, p5, p5[..., ::2, ::2]), strict=True):
        torch.testing.assert_close(level, expected, atol=1e-5, rtol=1e-5)


def test_keys_and_shapes_are_detectron2s():
    with torch.device("meta"):
        ours = SimpleFeaturePyramid(1536, 16).state_dict()
    official = json.loads((GOLDEN / "keys" / "d2_mask_rcnn_PEspatial_G_coco.json").read_text())
    expected = {k.removeprefix("backbone."): v for k, v in official.items() if k.startswith("backbone.simfp")}
    assert {key: list(value.shape) for key, value in ours.items()} == expected


def test_every_parameter_gets_a_gradient():
    pyramid = SimpleFeaturePyramid(8, 16, out_channels=4)
    sum(level.square().mean() for level in pyramid((torch.randn(1, 8, 4, 4),))).backward()
    # the norm after a convolution makes the loss blind to nothing: all of them move
    assert all(p.grad is not None for p in pyramid.parameters())


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="in_channels 30 must be a multiple of 4"):
        SimpleFeaturePyramid(30, 16)
    pyramid = SimpleFeaturePyramid(8, 16)
    with pytest.raises(ValueError, match="needs 1 map, got 2"):
        pyramid((torch.zeros(1, 8, 4, 4),) * 2)
