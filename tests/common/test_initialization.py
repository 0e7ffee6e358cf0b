"""A module that is built without random weights is the same once its weights are loaded."""

import pytest
import torch
from torch import nn

from pe_spatial.backbones import PEBackbone
from pe_spatial.common.initialization import SkipInitialization, adopt_weights


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


# --- taking over ------------------------------------------------------------------------------------------------------
def test_tensors_of_the_modules_types_are_taken_over_and_others_cast():
    first = Everything()
    state = {key: value.double() if key == "weight" else value for key, value in first.state_dict().items()}
    with SkipInitialization():
        second = Everything()
    second.scale.requires_grad = False
    adopt_weights(second, state)
    for name, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[name]) and value.dtype == first.state_dict()[name].dtype, name
        assert (value.data_ptr() == state[name].data_ptr()) == (name != "weight"), name
    assert second.weight.requires_grad and not second.scale.requires_grad


def test_a_parameter_of_two_names_stays_one():
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    model["second"].weight = model["first"].weight
    state = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    state["second.weight"] = state["first.weight"]
    adopt_weights(model, state)
    assert model["second"].weight is model["first"].weight
    assert torch.equal(model["first"].weight, state["first.weight"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        adopt_weights(nn.Linear(3, 3), {"weight": torch.zeros(3, 3)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        adopt_weights(nn.Linear(3, 3, bias=False), {"weight": torch.zeros(3, 3), "bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        adopt_weights(nn.Linear(3, 3, bias=False), {"weight": torch.zeros(3, 4)})
