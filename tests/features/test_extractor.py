"""What the extractor gives is what the encoder gives, computed here step by step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from feature_scenes import TINY
from PIL import Image
from small_checkpoints import save_detector
from torch import nn

import pe_spatial
from pe_spatial.backbones import VARIANTS, PEBackbone
from pe_spatial.common.errors import OptionError, PictureError, UnknownName, UserError
from pe_spatial.features import FeatureExtractor

CORE = replace(TINY, name="core", ln_post=True, attn_pool=True, pool_heads=2, output_dim=24)


def normalized(path, size):
    """The picture as the encoder sees it, [1, 3, H, W]."""
    image = Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1


@torch.no_grad()
def test_maps_tokens_and_means_are_the_encoders_own(backbone, photos):
    x = normalized(photos / "a1.png", (64, 104))  # of 20 x 32 pixels: 102.4 columns are nearest to 13 patches
    expected = backbone(x)
    maps = FeatureExtractor(backbone, device="cpu")(photos / "a1.png")
    tokens = FeatureExtractor(backbone, form="tokens", device="cpu")(photos / "a1.png")
    means = FeatureExtractor(backbone, pool="mean", device="cpu")(photos / "a1.png")
    classes = FeatureExtractor(backbone, pool="cls", device="cpu")(photos / "a1.png")
    own = backbone.encoder.forward_features(x, backbone.layers)
    for name, layer, whole in zip(("layer_0", "layer_2"), expected, own, strict=True):
        torch.testing.assert_close(maps[name], layer[0])
        torch.testing.assert_close(tokens[name], whole[0, 1:])
        torch.testing.assert_close(means[name], layer[0].mean((1, 2)))
        torch.testing.assert_close(classes[name], whole[0, 0])


@torch.no_grad()
def test_attention_pooling_is_the_output_of_pe_core(photos, monkeypatch):
    monkeypatch.setitem(VARIANTS, "core", CORE)
    extractor = FeatureExtractor("core", weights="none", pool="attention", device="cpu")
    found = extractor(photos / "a1.png")
    assert list(found) == ["attention"] and found["attention"].shape == (24,)
    encoder = extractor.encoder.backbone.encoder
    torch.testing.assert_close(found["attention"], encoder(normalized(photos / "a1.png", (64, 104)))[0])
    with pytest.raises(OptionError, match="uses the last layer, 2, but layers are \\[1\\]"):
        FeatureExtractor("core", weights="none", pool="attention", layers=[1], device="cpu")
    # its norm is applied to every layer where it is asked for
    torch.manual_seed(0)
    plain = FeatureExtractor("core", weights="none", device="cpu")
    torch.manual_seed(0)
    normed = FeatureExtractor("core", weights="none", norm=True, device="cpu")
    layer = plain(photos / "a1.png")["layer_2"].permute(1, 2, 0)
    expected = encoder.ln_post(layer).permute(2, 0, 1)  # its weights are still those of every LayerNorm
    torch.testing.assert_close(normed(photos / "a1.png")["layer_2"], expected)


def test_many_pictures_come_in_their_order_whatever_their_sizes(backbone, photos):
    paths = sorted(photos.rglob("*.png"))
    extractor = FeatureExtractor(backbone, batch_size=2, device="cpu")
    together = extractor(paths)
    assert len({features["layer_0"].shape for features in together}) > 1
    for path, features in zip(paths, together, strict=True):
        for name, layer in extractor(path).items():
            torch.testing.assert_close(features[name], layer)
    assert extractor([]) == []
    assert len(extractor(path for path in paths)) == len(paths)


def test_pictures_of_one_size_are_one_batch(backbone, photos):
    paths = sorted(photos.rglob("*.png"))
    square = FeatureExtractor(backbone, resize="square", form="tokens", device="cpu")
    stacked = square.batch(paths)
    assert stacked["layer_2"].shape == (len(paths), 64, 32)
    torch.testing.assert_close(stacked["layer_2"][3], square(paths[3])["layer_2"])
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    maps = FeatureExtractor(backbone, device="cpu").batch(images)["layer_0"]
    torch.testing.assert_close(maps, backbone(images / 127.5 - 1)[0].detach())
    with pytest.raises(PictureError, match='cannot be one batch; .*resize="square"'):
        FeatureExtractor(backbone, device="cpu").batch(paths)


class Stripes(nn.Module):
    """A backbone of somebody else: two maps of different strides and channels, and pixels of its own scale."""

    channels, strides, patch_size, mean, std, image_size = (3, 6), (2, 4), 4, (0, 0, 0), (255, 255, 255), 16

    def __init__(self, layers=None):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(1))

    def forward(self, x):
        small = nn.functional.avg_pool2d(x, 2) * self.kernel
        return small, nn.functional.avg_pool2d(torch.cat([small, small], 1), 2)


def test_a_module_that_keeps_the_contract_is_taken_with_its_own_normalization():
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    extractor = FeatureExtractor(Stripes(), device="cpu")
    features = extractor(image)
    assert [tuple(values.shape) for values in features.values()] == [(3, 8, 12), (6, 4, 6)]
    torch.testing.assert_close(features["layer_0"], nn.functional.avg_pool2d(image / 255, 2))
    assert not any(parameter.requires_grad for parameter in extractor.encoder.backbone.parameters())
    with pytest.raises(OptionError, match="has no class token; it has: none, mean"):
        FeatureExtractor(Stripes(), pool="cls", device="cpu")
    with pytest.raises(OptionError, match=r"layers \[1\] cannot be chosen: Stripes returns maps without numbers"):
        FeatureExtractor(Stripes(), layers=[1], device="cpu")
    with pytest.raises(OptionError, match="Linear is not a backbone for features: it has no channels, strides"):
        FeatureExtractor(nn.Linear(2, 2), device="cpu")


def test_a_section_of_a_config_and_a_checkpoint_are_encoders(photos, tmp_path):
    torch.manual_seed(0)
    section = {"type": "PEBackbone", "variant": "tiny", "window": 4, "layers": [1]}
    windowed = FeatureExtractor(section, layers=[0, -1], device="cpu")
    assert windowed.names == ("layer_0", "layer_2") and windowed.description["settings"]["window"] == 4
    with pytest.raises(OptionError, match=r"has no class token \(attention in windows removes it\)"):
        FeatureExtractor(section, pool="cls", device="cpu")
    trained = FeatureExtractor(save_detector(tmp_path / "model.pth"), layers=[-1], device="cpu")
    assert isinstance(trained.encoder.backbone, PEBackbone)
    assert trained(photos / "a1.png")[trained.names[0]].isfinite().all()
    with pytest.raises(OptionError, match="weights none belong to a released encoder or a section"):
        FeatureExtractor(tmp_path / "model.pth", weights="none", device="cpu")
    with pytest.raises(UserError, match="no backbone is registered as 'PEBackbones'; did you mean 'PEBackbone'"):
        FeatureExtractor({"type": "PEBackbones"}, device="cpu")


def test_the_description_tells_encoders_apart(backbone):
    describe = lambda *given, **options: FeatureExtractor(*given, device="cpu", **options).description  # noqa: E731
    torch.manual_seed(0)
    again = describe(PEBackbone(TINY, layers=[0, 2]))
    assert again == describe(backbone)
    other = describe(PEBackbone(TINY, layers=[0, 2]))
    assert {key for key in other if other[key] != again[key]} == {"weights"}
    torch.manual_seed(0)
    assert describe(PEBackbone(TINY, layers=[0, 2], rope="interpolate"))["settings"] != again["settings"]


def test_numbers_that_a_type_does_not_hold_are_refused(photos):
    torch.manual_seed(0)
    backbone = PEBackbone(TINY)
    with torch.no_grad():
        backbone.encoder.transformer.resblocks[-1].mlp.c_proj.bias.fill_(1e5)
    with pytest.raises(
        PictureError, match=r"layer_2 reaches 1e\+05, more than fp16 can store; give --dtype bf16 or fp32"
    ):
        FeatureExtractor(backbone, dtype="fp16", device="cpu")(photos / "a1.png")
    assert FeatureExtractor(backbone, dtype="bf16", device="cpu")(photos / "a1.png")["layer_2"].dtype == torch.bfloat16
    with torch.no_grad():
        backbone.encoder.transformer.resblocks[-1].mlp.c_proj.bias.fill_(torch.nan)
    with pytest.raises(PictureError, match="layer_2 is not finite; check the weights"):
        FeatureExtractor(backbone, device="cpu")(photos / "a1.png")


def test_mistakes_are_named():
    with pytest.raises(UnknownName, match="no encoder, checkpoint or run 'PE-Spatial-B16'; did you mean"):
        FeatureExtractor("PE-Spatial-B16", device="cpu")
    with pytest.raises(OptionError, match="3"):
        FeatureExtractor("tiny", weights="none", layers=[3], device="cpu")
    with pytest.raises(OptionError, match="one is given twice"):
        FeatureExtractor("tiny", weights="none", layers=[2, -1], device="cpu")
    with pytest.raises(OptionError, match="pool 'max' is not one of none, mean, cls, attention"):
        FeatureExtractor("tiny", weights="none", pool="max", device="cpu")
    assert pe_spatial.FeatureExtractor is FeatureExtractor
