"""The judgment of tools/dev/measure_fine_maps.py on a scene with a known answer."""

from types import SimpleNamespace

import measure_fine_maps
import torch
from torch import nn
from torch.nn import functional as F


def test_an_edge_inside_a_token_is_judged_by_its_place():
    """A probe that reads the classes from the tokens: joint bilateral maps find the border, bilinear ones do not."""
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[13:45, 21:] = 3
    picture = (labels > 0).float().sub(0.5).expand(1, 3, -1, -1)
    tokens = measure_fine_maps.shares(labels, (8, 8)).T.unflatten(1, (8, 8))[None]
    assert float(tokens.sum(1).min()) == float(tokens.sum(1).max()) == 1
    backbone = SimpleNamespace(patch_size=8, strides=(8,), channels=(13,), layers=(0,), std=(127.5,) * 3)
    examples = [measure_fine_maps.Example(picture, tokens, labels)]

    def judge(settings, known=None):
        return measure_fine_maps.judge(backbone, examples, [nn.Identity()], settings, known)[0]

    plain, fine = judge("bilinear"), judge({"type": "joint_bilateral", "stride": 1}, [{(0, 3)}])
    assert plain.found == {(0, 3)}
    assert fine.f == fine.f_found == 1 and fine.miou > 0.99 * 2 / 13
    assert plain.miou < fine.miou


def test_what_is_ignored_counts_nowhere():
    labels = torch.full((16, 16), measure_fine_maps.IGNORED, dtype=torch.uint8)
    labels[:8] = 2
    shares = measure_fine_maps.shares(labels, (2, 2))
    assert shares[:2, 2].tolist() == [1, 1] and float(shares[2:].sum()) == 0
    assert torch.equal(shares.sum(1), F.adaptive_avg_pool2d((labels != 255)[None].float(), 2).flatten())
