"""TimmBackbone: timm's numbers, timm's names, and the contract of a backbone."""

import pytest
import torch

from pe_spatial.backbones import TimmBackbone

timm = pytest.importorskip("timm")


def test_the_maps_are_those_of_timm_in_the_order_of_the_layers():
    backbone = TimmBackbone("test_vit", [-1, 1, 3], norm=True).eval()
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True).eval()
    model.load_state_dict(backbone.encoder.state_dict())
    images = torch.randn(2, 3, 64, 96)
    theirs = model.forward_intermediates(images, indices=[1, 3, 5], norm=True, intermediates_only=True)
    for ours, expected in zip(backbone(images), [theirs[2], theirs[0], theirs[1]], strict=True):
        assert torch.equal(ours, expected)


def test_weights_of_a_file_give_the_same_maps(tmp_path):
    model = timm.create_model("test_convnext").eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    backbone = TimmBackbone("test_convnext", [0, 3], weights=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 64, 96)
    theirs = model.forward_intermediates(images, indices=[0, 3], intermediates_only=True)
    assert all(torch.equal(ours, expected) for ours, expected in zip(backbone(images), theirs, strict=True))
