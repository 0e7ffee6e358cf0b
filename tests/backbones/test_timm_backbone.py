"""TimmBackbone: timm's numbers, timm's names, and the contract of a backbone."""

import sys

import pytest
import torch

from pe_spatial.backbones import PEBackbone, TimmBackbone
from pe_spatial.backbones.contract import build_backbone, with_statistics
from pe_spatial.common.errors import UserError
from pe_spatial.training.frozen_encoders import leave_out_encoders, restore_encoders, separable_backbones

TINY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 2, "cls_token": False}
timm = pytest.importorskip("timm")


def test_the_maps_are_those_of_timm_in_the_order_of_the_layers():
    backbone = TimmBackbone("test_vit", [-1, 1, 3], norm=True).eval()
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(backbone.encoder.state_dict())
    images = torch.randn(2, 3, 64, 96)
    theirs = model.forward_intermediates(images, indices=[1, 3, 5], norm=True, intermediates_only=True)
    for ours, expected in zip(backbone(images), [theirs[2], theirs[0], theirs[1]], strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch16_dinov3"])
def test_class_tokens_come_with_the_maps(name):
    options = {} if name == "test_vit" else {"depth": 2}
    backbone = TimmBackbone(name, [-1, 0], norm=True, options=options).eval()
    images = torch.randn(2, 3, 64, 96)
    maps, tokens = backbone.maps_and_class_tokens(images)
    assert backbone.pools == ("cls",)
    assert all(map(torch.equal, maps, backbone(images)))
    assert all(map(torch.equal, tokens, backbone.class_tokens(images)))
    torch.testing.assert_close(tokens[0], backbone.encoder.forward_features(images)[:, 0])


def test_a_convnet_has_no_class_token():
    backbone = TimmBackbone("test_resnet")
    assert backbone.pools == ()
    with pytest.raises(UserError, match="test_resnet has no class token"):
        backbone.class_tokens(torch.zeros(1, 3, 64, 64))


def test_weights_of_a_file_give_the_same_maps(tmp_path):
    model = timm.create_model("test_convnext").eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    backbone = TimmBackbone("test_convnext", [0, 3], weights=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 64, 96)
    theirs = model.forward_intermediates(images, indices=[0, 3], intermediates_only=True)
    assert all(torch.equal(ours, expected) for ours, expected in zip(backbone(images), theirs, strict=True))


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "test_resnet", "test_mambaout", "swin_tiny_patch4_window7_224"]
)
@pytest.mark.parametrize("norm", [False, True])
def test_a_parameter_has_a_gradient_if_and_only_if_a_map_depends_on_it(name, norm):
    backbone = TimmBackbone(name, [0, 2], norm=norm).train()
    side = 2 * backbone.patch_size
    sum(features.square().sum() for features in backbone(torch.randn(2, 3, side, side))).backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), key


@pytest.mark.parametrize(("frozen", "first"), [(0, 1), (2, 3), (True, 99), (False, 0)])
def test_what_is_frozen_neither_learns_nor_leaves_evaluation(frozen, first):
    backbone = TimmBackbone("test_vit", frozen=frozen, drop_path=0.1).train()
    layers = {backbone.layer_of(name) for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert layers == set(range(first, backbone.num_layers))
    blocks = backbone.encoder.blocks
    assert [block.training for block in blocks] == [number + 1 >= first for number in range(len(blocks))]


def test_blocks_behind_frozen_embeddings_learn_with_checkpointing():
    plain, twice = (TimmBackbone("test_vit", frozen=0, checkpointing=again).train() for again in (False, True))
    twice.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 32, 48)
    for backbone in (plain, twice):
        backbone(images)[0].square().sum().backward()
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), twice.named_parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_parameters_that_timm_itself_does_not_train_are_no_obstacle():
    backbone = TimmBackbone("efficientvim_m1", [0, -1]).train()
    assert any(not parameter.requires_grad for parameter in backbone.parameters())
    sum(features.square().sum() for features in backbone(torch.randn(2, 3, 64, 128))).backward()


# --- positions --------------------------------------------------------------------------------------------------------
def test_plain_positions_are_those_of_torch_without_antialiasing():
    """With a table alone (patches and blocks without weight) the first map is the table, resized."""
    backbone = TimmBackbone("test_vit", [0], pos_embed="bicubic", options={"init_values": 0.0}).eval()
    model = backbone.encoder
    with torch.no_grad():
        for parameter in (model.patch_embed.proj.weight, model.patch_embed.proj.bias):
            parameter.zero_()
        for parameter in model.blocks[0].parameters():
            parameter.zero_()
        found = backbone(torch.zeros(1, 3, 64, 240))[0]
        table = model.pos_embed[:, model.num_prefix_tokens :] if not model.no_embed_class else model.pos_embed
        square = table.unflatten(1, (10, 10)).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(square, (4, 15), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found, expected)


def test_models_do_not_share_how_they_resize():
    TimmBackbone("test_vit", pos_embed="bicubic")
    plain, model = TimmBackbone("test_vit").eval(), timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
    model.load_state_dict(plain.encoder.state_dict())
    images = torch.randn(1, 3, 48, 64)
    assert torch.equal(plain(images)[0], model.eval().forward_intermediates(images, [5], intermediates_only=True)[0])


# --- mistakes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vit_smal_patch14_dinov2"}, "did you mean 'vit_small_patch14_dinov2'"),
        ({"model": "vit_small_patch14_dinov2.lvd142"}, "did you mean 'lvd142m'"),
        ({"model": "hf-hub:someone/model"}, "has no model 'hf-hub:someone/model'; timm.list_models"),
        ({"model": "test_vit", "layers": [6]}, "block 6 does not exist"),
        ({"model": "test_vit", "layers": []}, "layers is empty"),
        ({"model": "test_vit", "frozen": 6}, "exceeds the 6 features"),
        ({"model": "test_vit", "pos_embed": "tile"}, "antialiased, bicubic"),
        ({"model": "test_convnext", "pos_embed": "bicubic"}, "has no position table"),
        ({"model": "test_vit", "options": {"num_classes": 3}}, "nothing but maps is taken"),
        ({"model": "test_vit", "options": {"checkpoint_path": "x.pth"}}, "argument of timm's builder"),
        ({"model": "test_vit", "options": {"pretrained_cfg": {"file": "x"}}}, "argument of timm's builder"),
        ({"model": "test_vit", "options": {"dept": 3}}, "dept"),
        ({"model": "pit_ti_224", "layers": [0]}, "only maps can be used"),
        ({"model": "test_vit", "weights": "nowhere.pth"}, "no weights at 'nowhere.pth'"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, message):
    with pytest.raises((UserError, FileNotFoundError), match=message):
        TimmBackbone(**settings)


def test_a_size_that_a_model_does_not_take():
    with pytest.raises(UserError, match=r"multiple of 16.*size_divisor=16"):
        TimmBackbone("test_vit")(torch.zeros(1, 3, 40, 48))
    with pytest.raises(
        UserError, match=r"built for images of 160 x 160 and does not take 64 x 96.*img_size: \[64, 96\]"
    ):
        TimmBackbone("test_vit_relpos")(torch.zeros(1, 3, 64, 96))
    assert TimmBackbone("test_vit_relpos", img_size=[64, 96])(torch.zeros(1, 3, 64, 96))[0].shape[2:] == (4, 6)


def test_weights_of_another_model_are_refused_with_their_keys(tmp_path):
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    path = tmp_path / "weights.pth"
    torch.save({name: tensor for name, tensor in state.items() if "blocks.3" not in name}, path)
    with pytest.raises(UserError, match=r"does not fit test_vit: .*keys missing \(blocks.3"):
        TimmBackbone("test_vit", weights=str(path))
    torch.save({**state, "blocks.3.more": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"keys unexpected \(blocks.3.more"):
        TimmBackbone("test_vit", weights=str(path))
    torch.save({**state, "norm.weight": torch.full((64,), float("nan"))}, path)
    with pytest.raises(UserError, match="NaN or Inf"):
        TimmBackbone("test_vit", weights=str(path))


def test_weights_are_found_inside_a_larger_checkpoint(tmp_path):
    model = timm.create_model("test_vit", num_classes=0)
    state = {f"module.backbone.encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": {**state, "module.head.weight": torch.zeros(2)}}, tmp_path / "run.pth")
    backbone = TimmBackbone("test_vit", weights=str(tmp_path / "run.pth"))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in backbone.encoder.state_dict().items())


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'pe_spatial\[timm\]'"):
        TimmBackbone("test_vit")


# --- statistics -------------------------------------------------------------------------------------------------------
def test_statistics_reach_the_preprocessor_and_others_are_refused():
    backbone = TimmBackbone("test_convnext", options={})
    backbone.mean, backbone.std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    found = with_statistics({"type": "DensePreprocessor", "size_divisor": 32}, backbone)
    assert found["mean"] == list(backbone.mean) and found["std"] == list(backbone.std)
    assert with_statistics({"mean": [124, 116, 104]}, backbone)["mean"] == [124, 116, 104]
    with pytest.raises(UserError, match=r"data_preprocessor.mean is \[127, 127, 127\].*\[123.675, 116.28, 103.53\]"):
        with_statistics({"mean": [127, 127, 127]}, backbone)
    with pytest.raises(UserError, match="size_divisor is 14, but the encoder takes multiples of 32"):
        with_statistics({"size_divisor": 14}, backbone)
    assert with_statistics({"mean": [1, 2, 3]}, PEBackbone(TINY))["mean"] == [1, 2, 3]  # the official detectors' own


def test_a_backbone_without_strides_is_refused():
    class Maps(torch.nn.Module):
        channels = (3,)

    with pytest.raises(UserError, match="cannot use Maps as a backbone: it has no strides"):
        build_backbone(Maps(), "Depth model")


# --- checkpoints ------------------------------------------------------------------------------------------------------
def test_a_checkpoint_does_without_a_frozen_encoder(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    settings = {"model": "test_vit", "weights": str(path), "frozen": True}
    model = torch.nn.ModuleDict({"backbone": TimmBackbone(**settings), "head": torch.nn.Linear(64, 2)})
    content = {"state_dict": dict(model.state_dict()), "pe_spatial": {}}
    leave_out_encoders(content, model)
    assert content["state_dict"].keys() == {"head.weight", "head.bias"}
    assert content["pe_spatial"]["encoders"]["backbone."]["source"] == str(path)

    restore_encoders(content, dict(separable_backbones(model)), "run.pth")
    assert content["state_dict"].keys() == model.state_dict().keys()

    content["pe_spatial"]["encoders"]["backbone."]["hash"] = "0" * 64
    with pytest.raises(UserError, match=r"was trained on the encoder of .*weights.pth \(hash 000000000000\)"):
        restore_encoders(content, dict(separable_backbones(model)), "run.pth")
    with pytest.raises(UserError, match=r"set model.backbone.weights="):
        restore_encoders(content, {}, "run.pth")

    kept = torch.nn.ModuleDict({"backbone": TimmBackbone(**settings, in_checkpoint=True)})
    content = {"state_dict": dict(kept.state_dict()), "pe_spatial": {}}
    leave_out_encoders(content, kept)
    assert content["state_dict"].keys() == kept.state_dict().keys()
