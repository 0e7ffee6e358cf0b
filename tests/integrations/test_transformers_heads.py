"""Heads of transformers on our backbone: which form each can use, gradients, weights, save and reload."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from small_heads import FORMS, HEADS, VARIANT, head_config, options_of
from transformers import DPTConfig, DPTForSemanticSegmentation, UperNetConfig, UperNetForSemanticSegmentation
from transformers.utils import logging

from pe_spatial.common.errors import OptionError
from pe_spatial.common.tensors import WeightsError
from pe_spatial.integrations.transformers import PEBackboneForTransformers, PEConfig, with_backbone
from pe_spatial.integrations.transformers.heads import USABLE, check_form

logging.disable_progress_bar()
PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(head, form, **options):
    """The head, and the backbone whose weights it has."""
    backbone = PEBackboneForTransformers(PEConfig(**options_of(head, form), **options))
    return with_backbone(HEADS[head][0], head_config(head, backbone.config), backbone), backbone


def inside(model):
    (backbone,) = [module for module in model.modules() if isinstance(module, PEBackboneForTransformers)]
    return backbone


def tensors_of(output):
    return {name: value for name, value in output.items() if torch.is_tensor(value) and value.is_floating_point()}


@pytest.mark.parametrize("head", HEADS)
def test_forward_gradients_save_and_reload(head, tmp_path):
    model, backbone = build(head, USABLE[head][0])
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(inside(model).state_dict()[name], tensor), name
    images = torch.randn(2, 3, 64, 96)
    output = tensors_of(model.eval()(images))
    sum(value.square().mean() for value in output.values() if value.requires_grad).backward()
    trained = {name: parameter for name, parameter in inside(model).named_parameters() if parameter.requires_grad}
    assert len(trained) > 50
    assert [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()] == []
    model.save_pretrained(tmp_path)
    again = tensors_of(HEADS[head][0].from_pretrained(tmp_path)(images))
    assert again.keys() == output.keys()
    for name, value in output.items():  # the kernels of some processors add up by where weights lie in memory
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", HEADS)
def test_what_a_head_cannot_use_is_refused_and_nothing_else(head, form):
    config = PEConfig(**options_of(head, form))
    try:
        with torch.no_grad():
            HEADS[head][0](head_config(head, config)).eval()(torch.randn(2, 3, 64, 96))
        works = True
    except (RuntimeError, ValueError):
        works = False
    assert works == (form in USABLE[head])
    if works:
        check_form(head, config)
    else:
        with pytest.raises(OptionError, match=f"{head} cannot use a backbone with {re.escape(form)}; build .* form="):
            check_form(head, config)


def test_the_table_of_the_page_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \|.*?\| (.+?) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {head: tuple(re.findall("`(.+?)`", forms)) for head, forms in rows} == USABLE
    assert USABLE.keys() == HEADS.keys()


@pytest.mark.parametrize("head", ["upernet", "rt_detr", "dpt", "vitpose"])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("cls_token", [True, False])
def test_encoders_with_and_without_class_token_and_other_sizes(head, window, cls_token):
    variant = {**VARIANT, "cls_token": cls_token}
    options = {**options_of(head, USABLE[head][0]), "variant": variant, "window": window}
    model = HEADS[head][0](head_config(head, PEConfig(**options))).eval()
    sizes = [(64, 96)] if head == "vitpose" else [(64, 64), (96, 160)]
    for size in sizes:
        with torch.no_grad():
            output = tensors_of(model(torch.randn(1, 3, *size)))
        assert all(value.isfinite().all() for value in output.values())


def test_heads_alone_draw_the_backbone():
    model, backbone = build("upernet", "form='maps'")
    other = HEADS["upernet"][0](head_config("upernet", backbone.config))
    key = "body.encoder.conv1.weight"
    assert torch.equal(inside(model).state_dict()[key], backbone.state_dict()[key])
    assert not torch.equal(inside(other).state_dict()[key], backbone.state_dict()[key])


def test_the_head_trains_its_own_copy():
    model, backbone = build("upernet", "form='maps'")
    before = backbone.body.encoder.conv1.weight.clone()
    with torch.no_grad():
        inside(model).body.encoder.conv1.weight.add_(1)
    assert torch.equal(backbone.body.encoder.conv1.weight, before)


@pytest.mark.parametrize("frozen", [True, 2])
def test_a_frozen_encoder_stays_frozen_in_a_head_that_is_reloaded(frozen, tmp_path):
    model, backbone = build("upernet", "form='maps'", frozen=frozen, drop_path=0.5)
    model.save_pretrained(tmp_path)
    again = UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    for head in (model, again):
        head.train()
        fixed = {name for name, parameter in inside(head).named_parameters() if not parameter.requires_grad}
        assert fixed == {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
        before = {name: tensor.clone() for name, tensor in inside(head).state_dict().items()}
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
        labels = torch.randint(3, (2, 64, 64))
        head(torch.randn(2, 3, 64, 64), labels=labels).loss.backward()
        optimizer.step()
        changed = {name for name, tensor in inside(head).state_dict().items() if not torch.equal(tensor, before[name])}
        assert not changed & fixed
        assert bool(changed) == (frozen is not True)
        blocks = inside(head).body.encoder.transformer.resblocks
        assert [block.training for block in blocks] == [not (frozen is True or i < frozen) for i in range(4)]


def test_checkpointing_is_switched_on_by_transformers():
    model, _ = build("upernet", "form='maps'")
    model.train()
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    gradients, saved = [], []
    for enable in (False, True):
        inside(model).gradient_checkpointing_enable() if enable else None
        count = [0]

        def pack(tensor, count=count):
            count[0] += 1
            return tensor

        torch.manual_seed(0)  # dropout of the head
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(images, labels=labels).loss
        loss.backward()
        gradients.append(inside(model).body.encoder.conv1.weight.grad.clone())
        saved.append(count[0])
        model.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1])
    assert saved[1] < saved[0]
    inside(model).gradient_checkpointing_disable()
    model(images)
    assert not inside(model).body.encoder.checkpointing


def test_a_head_without_a_place_for_a_backbone_is_named():
    backbone = PEBackboneForTransformers(PEConfig(variant=VARIANT, form="tokens"))
    config = DPTConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, backbone_out_indices=[0])
    with pytest.raises(OptionError, match="DPTForSemanticSegmentation holds 0 Perception Encoders"):
        with_backbone(DPTForSemanticSegmentation, config, backbone)


def test_vitpose_is_told_how_to_read_sizes():
    with pytest.raises(OptionError, match=r"vitpose reads image_size and patch_size as pairs, not 64 and 16; build"):
        check_form("vitpose", PEConfig(variant=VARIANT, form="tokens", first_token=False))


def test_a_folder_of_a_head_is_no_backbone(tmp_path):
    model, _ = build("upernet", "form='maps'")
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="lacks 53 tensors of the encoder .*: it may be a head.*its own class"):
        PEBackboneForTransformers.from_pretrained(tmp_path)
    assert UperNetConfig.from_pretrained(tmp_path).backbone_config.variant == VARIANT


def test_half_precision_heads(tmp_path):
    model, _ = build("dpt", "form='tokens', first_token=True")
    model.save_pretrained(tmp_path)
    half = HEADS["dpt"][0].from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        assert half(images.bfloat16()).predicted_depth.dtype == torch.bfloat16
