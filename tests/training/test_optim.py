"""Layer-wise learning rates and weight decay: who gets what, and how few groups it takes."""

import pytest
import torch
import toy_task
from mmengine.optim import build_optim_wrapper

from pe_spatial.common.errors import ConfigError
from pe_spatial.training.amp import Bf16OptimWrapper
from pe_spatial.training.optim import LayerDecayConstructor


def build(model=None, **paramwise):
    config = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.1},
        "constructor": "LayerDecayConstructor",
        "paramwise_cfg": paramwise,
    }
    model = model or toy_task.ToyModel()
    wrapper = build_optim_wrapper(model, config)
    groups = wrapper.optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    return settings, groups


def test_every_parameter_is_in_exactly_one_group():
    settings, groups = build(layer_decay=0.5)
    assert set(settings) == {name for name, _ in toy_task.ToyModel().named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(settings)


def test_layers_decay_from_the_heads_down():
    settings, groups = build(layer_decay=0.5)
    assert settings["head.weight"] == settings["norm.bias"] == (1.0, 0.1)
    assert settings["backbone.blocks.1.0.weight"] == (0.5, 0.1)
    assert settings["backbone.blocks.0.0.bias"] == (0.25, 0.1)
    assert settings["backbone.embed.weight"] == (0.125, 0.1)
    assert len(groups) == 4  # everything is decayed by default, so one group a rate


def test_the_official_fifty_layers():
    """ViT-G: embeddings at 0.9^51, block 49 at 0.9, as Detectron2's rule gives."""
    model = toy_task.ToyModel()
    model.backbone.num_layers = 51
    settings, _ = build(model, layer_decay=0.9)
    assert settings["backbone.embed.weight"][0] == pytest.approx(0.9**51)


def test_options_without_decay():
    settings, _ = build(norm_decay=False, bias_decay=False)
    assert settings["head.weight"] == (1.0, 0.1)
    assert settings["head.bias"] == settings["norm.weight"] == settings["norm.bias"] == (1.0, 0.0)
    settings, _ = build(norm_decay=False)
    assert settings["norm.weight"][1] == 0.0
    assert settings["head.bias"][1] == 0.1


def test_frozen_parameters_are_left_out():
    model = toy_task.ToyModel()
    model.backbone.requires_grad_(False)
    settings, _ = build(model, layer_decay=0.5)
    assert all(not name.startswith("backbone") for name in settings)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        build(model)


def test_factors_by_name_come_on_top_of_the_layers():
    settings, _ = build(layer_decay=0.5, rate_factors={"blocks.0": 0.1, "head": 0.3})
    assert settings["backbone.blocks.0.0.weight"][0] == pytest.approx(0.25 * 0.1)
    assert settings["backbone.blocks.1.0.weight"][0] == 0.5
    assert settings["head.bias"][0] == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="no parameter has a name with 'heads'"):
        build(rate_factors={"heads": 0.1})
    with pytest.raises(ConfigError, match=r"rate_factors.head 0 must be above 0"):
        build(rate_factors={"head": 0})


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match=r"layer_decay 1.5"):
        build(layer_decay=1.5)
    with pytest.raises(TypeError, match="decay_rate"):
        LayerDecayConstructor({"optimizer": {}}, {"decay_rate": 0.9})
    model = toy_task.ToyModel()
    model.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="layer_of"):
        build(model, layer_decay=0.9)


def test_bf16_runs_the_forward_pass_in_bfloat16_and_the_rest_in_float32():
    layer = torch.nn.Linear(64, 64)
    wrapper = Bf16OptimWrapper(torch.optim.SGD(layer.parameters(), lr=0.1))
    x = torch.randn(4, 64)
    with wrapper.optim_context(layer):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = layer(x)
    assert 0 < (y - exact).abs().max() < 0.05
    before = layer.weight.clone()
    wrapper.update_params(y.float().square().mean())
    assert layer.weight.dtype == torch.float32
    assert not torch.equal(layer.weight, before)
