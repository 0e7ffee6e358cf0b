"""ModuleTeacher: any encoder, at the student's grid or at its own."""

import pytest
import torch
from alignment_scenes import CORE, write_core
from torch.nn import functional as F

from pe_spatial.alignment.module_teacher import ModuleTeacher
from pe_spatial.alignment.teachers import EncoderTeacher
from pe_spatial.backbones import PEBackbone
from pe_spatial.backbones.contract import build_backbone, renormalize
from pe_spatial.common.errors import OptionError

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BACKBONE = {"type": "PEBackbone", "variant": CORE}


@pytest.mark.parametrize("variant", [CORE, {**CORE, "patch_size": 6, "image_size": 24}], ids=["same", "resized"])
@pytest.mark.parametrize("layer", [None, 1, 0.5])
def test_our_own_encoder_gives_the_tokens_of_an_encoder_teacher(variant, layer, tmp_path):
    weights = write_core(tmp_path / "core.pt", **variant)
    backbone = {"type": "PEBackbone", "variant": variant, "weights": weights}
    ours = ModuleTeacher(backbone, layer)(IMAGES, [], (4, 4))
    assert torch.equal(ours, EncoderTeacher(variant, weights, layer)(IMAGES, [], (4, 4)))


def test_twice_the_pixels_are_reduced_to_the_grid_of_the_student():
    torch.manual_seed(0)
    teacher = ModuleTeacher(BACKBONE, scale=2)
    large = torch.randn(1, 3, 64, 64)
    expected = F.interpolate(teacher.backbone(large)[0], (4, 4), mode="bicubic", antialias=True)
    assert torch.equal(teacher(large, [], (4, 4)), expected)
    by_size = ModuleTeacher(BACKBONE, image_size=64)
    by_size.load_state_dict(teacher.state_dict())
    assert torch.equal(by_size(large, [], (4, 4)), expected)
    features, summary = teacher.with_summary(large, [], (4, 4), "mean")
    assert torch.equal(features, expected)
    torch.testing.assert_close(summary, teacher.backbone(large)[0].mean((2, 3)))


@pytest.mark.parametrize("model", ["vit_small_patch14_dinov2", "test_resnet"])
def test_encoders_of_timm_have_their_own_statistics_and_patches(model):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"img_size": 28, "options": {"depth": 1}} if model.startswith("vit") else {}
    backbone = {"type": "TimmBackbone", "model": model, **options}
    teacher = ModuleTeacher(backbone, layer=-1)
    stride = teacher.backbone.strides[0]
    side = 2 * stride
    images = torch.randn(1, 3, side, side)
    expected = teacher.backbone(renormalize(images, None, teacher.backbone))[0]
    assert torch.equal(teacher(images, [], (2, 2)), expected)
    assert teacher.channels == expected.shape[1] and tuple(expected.shape[2:]) == (2, 2)
    if model.startswith("vit"):
        assert build_backbone(backbone, "a test").mean != PEBackbone.mean
        features, summary = teacher.with_summary(images, [], (2, 2), "cls")
        prepared = renormalize(images, None, teacher.backbone)
        assert torch.equal(features, expected) and torch.equal(summary, teacher.backbone.class_tokens(prepared)[0])
    else:
        with pytest.raises(OptionError, match="TimmBackbone has no class token"):
            teacher.require_summary("cls")


def test_grids_that_do_not_divide_are_refused_unless_interpolated():
    with pytest.raises(
        OptionError, match=r"makes \(6, 6\) tokens .* student \(4, 4\).*multiple of \(32, 32\).*resample"
    ):
        ModuleTeacher(BACKBONE, image_size=48)(IMAGES, [], (4, 4))
    assert ModuleTeacher(BACKBONE, image_size=48, resample=True)(IMAGES, [], (4, 4)).shape == (2, 16, 4, 4)
    with pytest.raises(OptionError, match=r"scale 1.5 is not a whole number; set resample"):
        ModuleTeacher(BACKBONE, scale=1.5)
    assert ModuleTeacher(BACKBONE, scale=1.5, resample=True)(IMAGES, [], (4, 4)).shape == (2, 16, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 36}, "image_size 36 is not a multiple of the teacher's patch size 8"),
        ({"image_size": 64, "scale": 2}, "both set"),
        ({"scale": 0}, "scale"),
        ({"layer": 7}, "block 7 does not exist"),
    ],
)
def test_sizes_and_layers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ModuleTeacher(BACKBONE, **options)
