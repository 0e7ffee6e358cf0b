"""LoRA: where it begins, what it trains, and that merging gives a plain encoder with the same maps."""

import pytest
import torch
from test_dense import TINY, USES, build, gradients, images

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.lora import TARGETS, is_adapter
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.common.tensors import WeightsError, write_tensor_file
from pe_spatial.training.optim import LayerDecayConstructor

LORA = {"rank": 4, "alpha": 6.0}
CASES = pytest.mark.parametrize("options", USES.values(), ids=USES)


def learned(backbone, seed=0):
    """The backbone as after training: adapters that add something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith(".up"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return backbone


def maps_of(backbone, x=None):
    with torch.no_grad():
        return backbone.eval()(images() if x is None else x)


def largest(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@CASES
def test_it_begins_as_the_plain_encoder_and_draws_no_numbers_of_others(options):
    plain = build(**options)
    after_plain = torch.rand(4)
    adapted = build(**options, lora=LORA)
    assert torch.equal(torch.rand(4), after_plain)  # a head that is drawn afterwards is the same too
    assert largest(maps_of(adapted), maps_of(plain)) == 0
    official = plain.encoder.state_dict()
    assert adapted.frozen_state().keys() == official.keys()
    assert all(torch.equal(tensor, official[key]) for key, tensor in adapted.frozen_state().items())


@CASES
def test_merged_it_is_a_plain_encoder_with_the_same_maps(options):
    adapted = learned(build(**options, lora=LORA))
    expected = maps_of(adapted)
    assert largest(expected, maps_of(build(**options))) > 0.05
    adapted.merge_adapters()
    assert largest(maps_of(adapted), expected) < 1e-5
    plain = build(**options)
    plain.load_state_dict(adapted.state_dict(), strict=True)
    assert list(adapted.state_dict()) == list(plain.state_dict())
    assert largest(maps_of(plain), expected) < 1e-5


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_adds_a_matrix_of_its_rank_to_its_own_weights_alone(target):
    adapted = learned(build(lora={**LORA, "targets": [target]}))
    before = {key: tensor.clone() for key, tensor in adapted.encoder.state_dict().items()}
    adapted.merge_adapters()
    changed = {key: tensor - before[key] for key, tensor in adapted.encoder.state_dict().items()}
    leaf = "in_proj_weight" if target == "in_proj" else f"{target}.weight"
    for key, difference in changed.items():
        if not key.endswith(f"{TARGETS[target]}.{leaf}"):
            assert not difference.any(), key
            continue
        name = f"{key.removesuffix(leaf)}lora_{target}"
        added = before[f"{name}.up"] @ before[f"{name}.down"] * (LORA["alpha"] / LORA["rank"])
        torch.testing.assert_close(difference, added, atol=1e-6, rtol=0)
        assert torch.linalg.matrix_rank(difference, rtol=1e-3) == LORA["rank"]
    assert sum(bool(difference.any()) for difference in changed.values()) == TINY["depth"]


@CASES
@pytest.mark.parametrize("rank", [1, 8])
def test_the_adapters_alone_are_trained_and_all_of_them(options, rank):
    adapted = learned(build(**options, lora={"rank": rank}))
    grads = gradients(adapted.train(), images())[1]
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert set(grads) == set(trained) == {name for name, _ in adapted.named_parameters() if is_adapter(name)}
    assert all(grad.abs().max() > 0 for grad in grads.values())
    width, hidden = adapted.config.width, adapted.config.mlp_dim
    per_block = rank * ((3 * width + width) + 2 * width + 2 * (width + hidden))
    assert sum(parameter.numel() for parameter in trained.values()) == per_block * (max(adapted.layers) + 1)


@pytest.mark.parametrize("options", [{}, USES["windows"]], ids=["global", "windows"])
def test_checkpointing_changes_no_gradient(options):
    results = []
    for checkpointing in (False, True):
        adapted = learned(build(**options, lora={**LORA, "dropout": 0.3}, checkpointing=checkpointing)).train()
        torch.manual_seed(1)  # the second computation must drop as the first
        results.append(gradients(adapted, images()))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[1][1], results[0][1])


def test_dropout_acts_in_training_alone():
    adapted = learned(build(lora={**LORA, "dropout": 0.5}))
    expected = maps_of(learned(build(lora=LORA)))
    assert largest(maps_of(adapted), expected) == 0
    with torch.no_grad():
        assert largest(adapted.train()(images()), expected) > 1e-3


def test_it_compiles_without_a_break_and_computes_in_bfloat16():
    adapted = learned(build(**USES["windows"], lora=LORA))
    compiled = torch.compile(adapted.eval(), fullgraph=True, backend="eager")
    assert largest(maps_of(compiled), maps_of(adapted)) < 1e-6
    expected = maps_of(adapted)
    adapted.to(torch.bfloat16)
    scale = float(expected[0].abs().max())
    assert largest(maps_of(adapted, images().bfloat16()), expected) < 0.05 * scale
    adapted.merge_adapters()
    assert adapted.encoder.conv1.weight.dtype == torch.bfloat16
    assert largest(maps_of(adapted, images().bfloat16()), expected) < 0.05 * scale


def test_adapters_learn_at_the_rate_of_their_block_and_decay_like_matrices():
    model = torch.nn.Module()
    model.backbone = build(lora=LORA)
    constructor = LayerDecayConstructor(
        {"optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.1}}, {"layer_decay": 0.5, "norm_decay": False}
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = constructor.parameter_groups(model)
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert rates == {
        name: (0.5 ** (TINY["depth"] - int(name.split(".")[4])), 0.1) for name in names.values() if is_adapter(name)
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lora": {"rank": 0}}, ConfigError, "lora: rank 0 must be at least 1"),
        ({"lora": {"rank": 2.5}}, ConfigError, "rank 2.5 is not a whole number"),
        ({"lora": {"rank": 33}}, OptionError, r"lora.rank 33 exceeds the smaller side of in_proj, \[96, 32\]; .* 32"),
        ({"lora": {"alpha": 0}}, ConfigError, "alpha 0 must be above 0"),
        ({"lora": {"dropout": 1}}, ConfigError, "dropout 1 is not a probability below 1"),
        ({"lora": {"targets": ["out_prj"]}}, ConfigError, "target 'out_prj' .* did you mean 'out_proj'"),
        ({"lora": {"targets": []}}, ConfigError, r"targets \[\] .* in_proj, out_proj, c_fc, c_proj"),
        ({"lora": {"targets": "c_fc"}}, ConfigError, "targets 'c_fc' is not a list"),
        ({"lora": {"ranks": 4}}, ConfigError, "lora has no option 'ranks'; did you mean 'rank'"),
        ({"lora": {}, "frozen": True}, OptionError, "frozen True and lora contradict each other"),
        ({"lora": {}, "frozen": 0}, OptionError, "frozen 0 and lora contradict each other"),
    ],
)
def test_options_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        PEBackbone(TINY, **options)


def test_weights_of_others_are_loaded_under_adapters_and_adapters_never_as_weights(tmp_path):
    plain = build()
    write_tensor_file(plain.encoder.state_dict(), tmp_path / "plain.pt")
    adapted = PEBackbone(TINY, lora=LORA, weights=str(tmp_path / "plain.pt"))
    assert adapted.origin.source == str(tmp_path / "plain.pt") and plain.origin is None
    assert largest(maps_of(adapted), maps_of(plain)) == 0
    write_tensor_file(adapted.state_dict(), tmp_path / "adapted.pt")
    with pytest.raises(WeightsError, match=r"LoRA adapters .* convert --input \S+adapted.pt .* --merge"):
        PEBackbone(TINY, weights=str(tmp_path / "adapted.pt"))
