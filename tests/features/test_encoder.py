"""Encoders by name, section and checkpoint give the layers that are asked for, those of timm too."""

import pytest
import torch
from mmengine.registry import MODELS
from search_scenes import save_encoder
from shared_models import save_shared

from pe_spatial.backbones.text import open_core
from pe_spatial.common.errors import ConfigError, OptionError
from pe_spatial.features import FeatureExtractor
from pe_spatial.features.encoder import open_encoder
from pe_spatial.inference.encoders import read_backbone

pytest.importorskip("timm")

IMAGE = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a segmenter on the last feature of an encoder of timm."""
    backbone = {"type": "TimmBackbone", "model": "test_vit", "variant": None}
    path = tmp_path_factory.mktemp("timm") / "seg.pth"
    return save_shared(path, "seg", backbone=backbone, preprocessor={"size_divisor": 16})


@pytest.mark.parametrize("layers", [[0, -1], "all"])
def test_other_layers_of_a_run_on_timm_are_those_of_its_encoder(run, layers):
    extractor = FeatureExtractor(run, layers=layers, device="cpu")
    (last,) = read_backbone(run)[0].layers
    assert extractor.names == tuple(f"layer_{n}" for n in ([0, last] if layers != "all" else range(last + 1)))
    assert extractor.sizing.image_size == extractor.encoder.backbone.image_size
    own = FeatureExtractor(run, device="cpu")
    assert own.names == (f"layer_{last}",)
    torch.testing.assert_close(extractor(IMAGE)[f"layer_{last}"], own(IMAGE)[f"layer_{last}"])


@pytest.mark.parametrize("name", ["tiny", "test_vit", "test_convnext"])
@pytest.mark.parametrize("norm", [False, True])
def test_all_layers_of_a_name_with_and_without_the_norm(name, norm):
    torch.manual_seed(0)
    extractor = FeatureExtractor(name, weights="none", layers="all", norm=norm, device="cpu")
    backbone = extractor.encoder.backbone
    assert extractor.encoder.layers == tuple(range(backbone.depth))
    assert extractor.sizing.image_size == backbone.image_size
    maps = extractor(IMAGE)
    assert [values.shape[0] for values in maps.values()] == list(extractor.encoder.channels)
    torch.manual_seed(0)
    part = {"type": "TimmBackbone", "model": name} if name != "tiny" else {"type": "PEBackbone", "variant": name}
    same = MODELS.build({**part, "norm": norm, "layers": list(range(backbone.depth))}).eval()
    size = extractor.sizing(IMAGE)
    with torch.no_grad():
        expected = same(extractor.normalize(size[None]))
    for values, one in zip(maps.values(), expected, strict=True):
        torch.testing.assert_close(values, one[0])


def test_a_folder_with_a_core_gives_the_features_of_its_image_half(tmp_path):
    folder = save_encoder(tmp_path / "core")
    core = open_core(folder, device="cpu")
    extractor = FeatureExtractor(folder, pool="attention", resize="square", device="cpu")
    assert extractor.encoder.name == core.config.name
    side = core.config.image_size
    square = torch.nn.functional.interpolate(IMAGE[None].float(), (side, side)).byte()[0]
    with torch.no_grad():
        expected = core.encode_image(core.preprocess(square)[None])[0]
    torch.testing.assert_close(extractor(square)["attention"], expected, rtol=1e-4, atol=1e-5)
    assert FeatureExtractor(str(folder), layers="all", device="cpu").encoder.layers == tuple(range(core.config.depth))


def test_a_section_that_cannot_be_built_is_refused_with_what_it_takes():
    with pytest.raises(ConfigError, match=r"encoder PEBackbone: .*'variant'; it takes variant, layers"):
        open_encoder({"type": "PEBackbone"})
    with pytest.raises(ConfigError, match=r"unexpected keyword argument 'modle'; it takes model, layers"):
        open_encoder({"type": "TimmBackbone", "model": "test_vit", "modle": 1})
    with pytest.raises(OptionError, match="99"):
        open_encoder("test_vit", layers=[99])
