"""The option `upsampling` of backbones, and the files of learned upsamplers: one encoder each."""

import pytest
import torch
from torch.nn import functional as F

from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.fine_maps import require_patches, save_upsampler
from pe_spatial.backbones.upsampling import JointBilateral
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.common.tensors import WeightsError, write_tensor_file

TINY = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 2, "cls_token": True}
BILATERAL = {"type": "joint_bilateral", "stride": 2}
LEARNED = {"type": "learned", "stride": 4, "weights": None}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file of random weights."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.pt"
    torch.manual_seed(0)
    write_tensor_file(PEBackbone(TINY).encoder.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def trained(encoder, tmp_path_factory):
    """A backbone with a learned upsampler, as if trained, and its file."""
    path = tmp_path_factory.mktemp("upsampler") / "upsampler.safetensors"
    backbone = PEBackbone(TINY, layers=[1], weights=encoder, upsampling=LEARNED)
    with torch.no_grad():
        for parameter in backbone.upsampler.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    save_upsampler(backbone.upsampler, path, backbone)
    return backbone.eval(), path


def test_by_default_nothing_changes(encoder):
    images = torch.randn(1, 3, 24, 40)
    plain = PEBackbone(TINY, weights=encoder).eval()
    named = PEBackbone(TINY, weights=encoder, upsampling={"type": "bilinear"}).eval()
    assert plain.strides == named.strides == (8,) and plain.upsampler is None
    assert plain.state_dict().keys() == named.state_dict().keys()
    torch.testing.assert_close(plain(images), named(images), rtol=0, atol=0)


@pytest.mark.parametrize("layers", [[-1], [0, 1]])
def test_every_map_of_the_encoder_becomes_fine(encoder, layers):
    images = torch.randn(2, 3, 24, 40)
    plain = PEBackbone(TINY, layers, weights=encoder).eval()(images)
    fine = PEBackbone(TINY, layers, weights=encoder, upsampling=BILATERAL).eval()
    assert fine.strides == (2,) * len(layers) and fine.channels == (24,) * len(layers) and fine.patch_size == 8
    for found, tokens in zip(fine(images), plain, strict=True):
        assert found.shape == (2, 24, 12, 20)
        torch.testing.assert_close(found, JointBilateral(8, 2)(images, [tokens])[0])
    interpolated = PEBackbone(TINY, layers, weights=encoder, upsampling={"type": "bilinear", "stride": 4}).eval()(
        images
    )
    torch.testing.assert_close(interpolated[0], F.interpolate(plain[0], scale_factor=2, mode="bilinear"))


def test_a_frozen_encoder_freezes_its_upsampler_and_another_does_not():
    def is_trained(**options):
        backbone = PEBackbone(TINY, upsampling=LEARNED, **options)
        layers = {backbone.layer_of(name) for name, _ in backbone.named_parameters() if name.startswith("upsampler")}
        assert layers == {2}
        return {parameter.requires_grad for parameter in backbone.upsampler.parameters()}

    assert is_trained(frozen=True) == {False}
    assert is_trained() == is_trained(frozen=1) == is_trained(lora={"rank": 2}) == {True}


def test_an_encoder_of_timm_has_the_same_option():
    pytest.importorskip("timm")
    from pe_spatial.backbones.timm_backbone import TimmBackbone

    options = {"options": {"embed_dim": 24, "depth": 2, "num_heads": 2}, "img_size": 64}
    backbone = TimmBackbone(
        "vit_tiny_patch16_224", **options, frozen=True, upsampling={"type": "bilinear", "stride": 4}
    )
    assert backbone.strides == (4,) and backbone(torch.randn(1, 3, 48, 48))[0].shape == (1, 24, 12, 12)
    with pytest.raises(OptionError, match="has maps of strides 8, 16"):
        TimmBackbone("resnet10t", layers=[2, 3], upsampling=BILATERAL)


# --- files ------------------------------------------------------------------------------------------------------------
def test_a_saved_upsampler_works_with_its_encoder(encoder, trained):
    images = torch.randn(1, 3, 24, 40)
    backbone, path = trained
    again = PEBackbone(TINY, [1], weights=encoder, frozen=True, upsampling={**LEARNED, "weights": str(path)}).eval()
    torch.testing.assert_close(again(images), backbone(images))
    adapted = PEBackbone(TINY, [1], weights=encoder, lora={"rank": 2}, upsampling={**LEARNED, "weights": str(path)})
    torch.testing.assert_close(adapted.eval()(images), backbone(images))


def test_another_encoder_is_refused(trained):
    with pytest.raises(WeightsError, match="was trained on the encoder with the hash [0-9a-f]{12}, and this one has"):
        PEBackbone(TINY, [1], upsampling={**LEARNED, "weights": str(trained[1])})


@pytest.mark.parametrize(
    ("layers", "changes", "message"),
    [
        ([0], {}, r"maps of layers \[1\], not of \[0\]"),
        ([1], {"reach": 1}, "upsampling.reach 2"),
        ([1], {"stride": 2}, "another stride or width"),
        ([1], {"width": 8}, "another stride or width"),
    ],
)
def test_other_layers_and_another_form_are_refused(encoder, trained, layers, changes, message):
    settings = {**LEARNED, "weights": str(trained[1]), **changes}
    with pytest.raises(WeightsError, match=message):
        PEBackbone(TINY, layers, weights=encoder, upsampling=settings)


def test_a_file_that_is_missing_or_no_upsampler_is_named(encoder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no upsampler at .*gone.safetensors.*pe-spatial train"):
        PEBackbone(TINY, weights=encoder, upsampling={**LEARNED, "weights": str(tmp_path / "gone.safetensors")})
    with pytest.raises(WeightsError, match="is not an upsampler"):
        PEBackbone(TINY, weights=encoder, upsampling={**LEARNED, "weights": encoder})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("bicubic", "upsampling.type 'bicubic' is not one of bilinear, joint_bilateral, learned"),
        (4, "neither bilinear nor a mapping"),
        ({"stride": 4}, "upsampling.type None is not one of"),
        ({"type": "joint_bilateral"}, "needs a stride"),
        ({"type": "joint_bilateral", "stride": 3}, "stride 3 does not divide patches of 8 pixels.*1, 2, 4"),
        ({"type": "joint_bilateral", "stride": 8}, "stride 8 does not divide"),
        ({"type": "joint_bilateral", "stride": 4, "sigm": 1}, "did you mean 'sigma'"),
        ({"type": "joint_bilateral", "stride": 4, "deviation": [1, 1, 1]}, "remove it from the config"),
        ({"type": "learned", "stride": 4}, "needs weights.*or null"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(settings, message):
    with pytest.raises((OptionError, ConfigError), match=message):
        PEBackbone(TINY, upsampling=settings)


def test_a_picture_smaller_than_a_patch_is_refused():
    with pytest.raises(OptionError, match="not a multiple of the patch size 8"):
        PEBackbone(TINY, upsampling=BILATERAL)(torch.randn(1, 3, 4, 4))


def test_what_works_on_tokens_refuses_fine_maps():
    require_patches(PEBackbone(TINY), "Tracker")
    with pytest.raises(OptionError, match="MaskDecoder works on the tokens of the encoder.*leave upsampling out"):
        require_patches(PEBackbone(TINY, upsampling=BILATERAL), "MaskDecoder")
