"""The table of encoders against the key lists of the official checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from pe_spatial.backbones import VARIANTS, EncoderConfig, VisionTransformer, get_variant

KEYS = Path(__file__).parents[1] / "data" / "keys"
OFFICIAL = {
    *(f"PE-Core-{size}" for size in ("T16-384", "S16-384", "B16-224", "L14-336", "G14-448")),
    *(f"PE-Lang-{size}" for size in ("L14-448", "G14-448", "L14-448-Tiling", "G14-448-Tiling")),
    *(f"PE-Spatial-{size}" for size in ("T16-512", "S16-512", "B16-512", "L14-448", "G14-448")),
}
SAM3 = "SAM3-L14-1008"  # whose key list has other names: see test_sam3_trunk.py


def test_all_released_encoders_are_there():
    assert set(VARIANTS) == OFFICIAL | {SAM3}
    assert all(config.name == name for name, config in VARIANTS.items())


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_state_dict_is_that_of_the_official_checkpoint(name):
    with torch.device("meta"):
        ours = VisionTransformer(get_variant(name)).state_dict()
    official = json.loads((KEYS / f"{name}.json").read_text())
    assert {key: list(value.shape) for key, value in ours.items()} == official
    assert list(ours) == list(official)  # the order, too: optimizers count parameters


def test_a_mapping_starts_from_a_released_encoder_or_from_nothing():
    own = get_variant({"base": "PE-Spatial-T16-512", "name": "tiny", "width": 128, "depth": 4, "heads": 4})
    assert (own.name, own.width, own.depth, own.patch_size, own.cls_token) == ("tiny", 128, 4, 16, True)
    fields = {
        "patch_size": 8,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "mlp_ratio": 2,
        "image_size": 64,
        "cls_token": False,
    }
    assert get_variant(fields) == EncoderConfig(name="custom", **fields)
    assert get_variant(own) is own


def test_derived_sizes():
    giant = get_variant("PE-Spatial-G14-448")
    assert (giant.grid_size, giant.head_dim, giant.mlp_dim) == (32, 96, 8960)


@pytest.mark.parametrize(
    ("variant", "error", "message"),
    [
        ("PE-Spatial-B14-512", KeyError, "did you mean 'PE-Spatial-B16-512'"),
        ({"base": "PE-Spatial-T16-512", "widht": 64}, KeyError, "did you mean 'width'"),
        ({"width": 64}, ValueError, "missing .* give the field or start from one with `base`"),
        ({"base": "PE-Spatial-T16-512", "heads": 5}, ValueError, "width 192 over 5 heads gives 38.4"),
        ({"base": "PE-Spatial-T16-512", "width": 90, "heads": 3}, ValueError, "multiple of 4"),
        (
            {"base": "PE-Spatial-T16-512", "image_size": 500},
            ValueError,
            "500 is not a multiple of patch_size 16; use 496",
        ),
        ({"base": "PE-Spatial-T16-512", "heads": 0}, ValueError, "heads 0 must be at least 1"),
        ({"base": "PE-Core-T16-384", "pool_heads": 7}, ValueError, "192 does not divide among 7 pool_heads"),
    ],
)
def test_errors_name_the_value_and_the_remedy(variant, error, message):
    with pytest.raises(error, match=message):
        get_variant(variant)
