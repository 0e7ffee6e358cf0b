"""A module that is built without random weights is the same once its weights are loaded."""

import torch
from torch import nn

from pe_spatial.backbones import PEBackbone
from pe_spatial.common.initialization import SkipInitialization


class Everything(nn.Module):
    """Parameters, their views, buffers and constants, drawn and set in every way that torch has."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 4), nn.Conv2d(3, 2, 3), nn.LayerNorm(4), nn.Embedding(5, 3)])
        self.attention = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(3, 4)
        self.weight = nn.Parameter(torch.empty(6, 6))
        for half in self.weight.chunk(2):
            nn.init.xavier_uniform_(half)
        nn.init.trunc_normal_(self.layers[0].weight, std=0.02)
        nn.init.constant_(self.layers[0].bias, 3)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.register_buffer("table", torch.arange(4.0).cos(), persistent=False)
        self.register_buffer("drawn", torch.empty(3).normal_(generator=torch.Generator().manual_seed(0)))


def test_the_loaded_module_is_the_same():
    first = Everything()
    with SkipInitialization():
        second = Everything()
    assert torch.equal(second.table, first.table)  # no part of the state dict, and needed
    assert torch.equal(second.drawn, first.drawn)
    second.load_state_dict(first.state_dict())
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_nothing_is_drawn_inside_and_everything_again_outside():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with SkipInitialization():
        PEBackbone("PE-Core-T16-384")
    assert torch.equal(torch.get_rng_state(), before)
    linear = nn.Linear(50, 50)
    assert 0 < linear.weight.std() < 1
    assert not torch.equal(torch.get_rng_state(), before)


def test_tensors_that_are_no_parameters_are_drawn():
    with SkipInitialization():
        noise = nn.init.normal_(torch.zeros(1000))
        more = torch.zeros(1000).uniform_(2, 3)
    assert noise.std() > 0.8
    assert more.min() >= 2 and more.max() <= 3
