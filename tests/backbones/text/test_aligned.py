"""Features of patches: the golden numbers, the pooling as their mean, affinities, and masks."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from small_core import TINY
from test_core import build
from torch import nn
from torch.nn import functional as F

from pe_spatial.backbones import PEBackbone, PECore
from pe_spatial.backbones.text import TextAlignedMap
from pe_spatial.backbones.text.affinity import proxy_affinity
from pe_spatial.commands.benchmark.fidelity.rule import draw
from pe_spatial.common.errors import OptionError

GOLDEN = Path(__file__).parents[2] / "data/open_vocabulary.npz"
CASES = {"cls": ("cls_context32", (2, 3, 96, 64)), "nocls": ("nocls_context72", (2, 3, 56, 84))}
BOTH = pytest.mark.parametrize("case", CASES)


class Given(nn.Module):
    """A backbone that returns a map which is given."""

    channels, strides = (32,), (1,)

    def __init__(self, tokens, grid, patch_size):
        super().__init__()
        self.map, self.patch_size = tokens.transpose(1, 2).unflatten(2, grid), patch_size

    def forward(self, images):
        return (self.map,)


@pytest.fixture(scope="module")
def cores():
    return {case: build(name) for case, (name, _) in CASES.items()}


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return PECore({**TINY, "depth": 2})


def near(ours, theirs, atol=2e-5):
    np.testing.assert_allclose(ours.numpy(), theirs, atol=atol, rtol=0)


def tokens_of(features):
    return features.flatten(2).transpose(1, 2)


def cosines(features, texts):
    return F.normalize(tokens_of(features), dim=-1) @ torch.from_numpy(texts).T


@BOTH
@torch.no_grad()
def test_features_of_patches_are_the_golden_ones(cores, case):
    golden, images = np.load(GOLDEN), draw(0, CASES[case][1])
    features = TextAlignedMap(cores[case])(images)
    near(tokens_of(features), golden[f"{case}/per_token"])
    near(cosines(features, golden[f"{case}/text_features"]), golden[f"{case}/per_token_cosine"])


@BOTH
@torch.no_grad()
def test_mixed_by_the_affinity_of_other_features_they_are_the_golden_ones(cores, case):
    golden, images, core = np.load(GOLDEN), draw(0, CASES[case][1]), cores[case]
    proxy = Given(torch.from_numpy(golden[f"{case}/proxy_features"]), core.visual.grid(images), core.config.patch_size)
    features = TextAlignedMap(core, proxy, batch_mean=True)(images)
    near(tokens_of(features), golden[f"{case}/proxy"])
    near(cosines(features, golden[f"{case}/text_features"]), golden[f"{case}/proxy_cosine"])


@BOTH
@torch.no_grad()
def test_the_embedding_of_a_picture_is_the_same_function_of_the_mean_of_its_values(case):
    """Each head weighs the values by its attention, which is the golden one."""
    golden, images, core = np.load(GOLDEN), draw(0, CASES[case][1]).double(), build(CASES[case][0]).double()
    attn = core.visual.attn_pool.attn
    tokens = core.visual.forward_features(images, norm=True)[0]
    probe = core.visual.attn_pool.probe.expand(len(images), -1, -1)
    weights = attn(probe, tokens, tokens, average_attn_weights=False)[1].squeeze(2)  # [B, heads, N]
    near(weights, golden[f"{case}/pool_attention"], 1e-6)
    width = tokens.shape[-1]
    values = tokens @ attn.in_proj_weight[-width:].T + attn.in_proj_bias[-width:]
    mean = torch.einsum("bhn,bnhd->bhd", weights, values.unflatten(-1, (weights.shape[1], -1))).flatten(1)
    near(TextAlignedMap(core)._project(mean), core.encode_image(images), 1e-6)


@torch.no_grad()
def test_a_mask_of_everything_gives_the_embedding_of_the_picture(cores):
    images, core = draw(0, CASES["nocls"][1]), cores["nocls"]
    everything = torch.ones(2, 1, *images.shape[-2:], dtype=torch.bool)
    near(TextAlignedMap(core).of_masks(images, everything)[:, 0], core.encode_image(images), 1e-5)


@BOTH
@torch.no_grad()
def test_a_mask_of_one_patch_gives_the_feature_of_that_patch(cores, case):
    images, maps = draw(0, CASES[case][1]), TextAlignedMap(cores[case])
    patch = maps.patch_size
    masks = torch.zeros(2, 2, *images.shape[-2:], dtype=torch.bool)
    masks[0, 0, patch : 2 * patch, :patch] = True  # row 1, column 0
    masks[1, 1, :patch, 2 * patch : 3 * patch] = True
    pooled, each = maps.of_masks(images, masks), maps(images)
    near(pooled[0, 0], each[0, :, 1, 0], 1e-5)
    near(pooled[1, 1], each[1, :, 0, 2], 1e-5)
    near(pooled[0, 1], maps.of_masks(images, torch.ones_like(masks))[0, 1], 1e-5)  # a mask of nothing


# --- affinities -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_an_affinity_of_each_token_to_itself_alone_changes_nothing(tiny):
    images = torch.randn(1, 3, 32, 24)
    own = Given(torch.eye(12)[None], (4, 3), 8)
    torch.testing.assert_close(TextAlignedMap(tiny, own, gamma=1e-3)(images), TextAlignedMap(tiny)(images))


@torch.no_grad()
def test_equal_tokens_share_the_mean_of_their_values(tiny):
    """Two halves whose tokens are equal within and orthogonal between them."""
    images = torch.randn(1, 3, 32, 32)
    halves = torch.eye(2)[torch.arange(16) // 8][None]
    features = tokens_of(TextAlignedMap(tiny, Given(halves, (4, 4), 8))(images))[0]
    torch.testing.assert_close(features[:8], features[:1].expand(8, -1))
    torch.testing.assert_close(features[8:], features[8:9].expand(8, -1))
    assert (features[0] - features[8]).abs().max() > 1e-3


def test_weights_sum_to_one_also_where_every_token_is_the_same():
    for features in (torch.randn(2, 9, 4), torch.ones(2, 9, 4)):
        weights = proxy_affinity(features)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 9))
        assert (weights.diagonal(dim1=1, dim2=2) > 0).all()


def test_a_picture_of_a_batch_gives_what_it_gives_alone():
    torch.manual_seed(0)
    features = torch.randn(3, 40, 4) + torch.arange(3).view(3, 1, 1)
    alone = proxy_affinity(features[1:2])
    torch.testing.assert_close(proxy_affinity(features)[1:2], alone)
    assert (proxy_affinity(features, batch_mean=True)[1:2] - alone).abs().max() > 1e-3


@torch.no_grad()
def test_an_earlier_block_is_as_good_as_a_backbone_of_that_block(tiny):
    images = torch.randn(2, 3, 24, 32)
    backbone = PEBackbone(asdict(tiny.config), layers=[0])
    backbone.encoder.load_state_dict(tiny.visual.state_dict())
    by_block = TextAlignedMap(tiny, 0)(images)
    torch.testing.assert_close(by_block, TextAlignedMap(tiny, backbone)(images))
    torch.testing.assert_close(by_block, TextAlignedMap(tiny, -2)(images))
    assert (by_block - TextAlignedMap(tiny)(images)).abs().max() > 1e-4


@torch.no_grad()
def test_an_encoder_of_other_patches_and_pixels_sees_the_picture_resized(tiny):
    """As if it had been given the resized picture in its own normalization; and finer maps make finer features."""
    images = torch.randn(1, 3, 24, 32)
    seen = []

    class Other(nn.Module):
        patch_size, channels, strides, mean, std = 4, (3,), (4,), (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)

        def forward(self, x):
            seen.append(x)
            return (F.avg_pool2d(x, self.strides[0]),)

    other = Other()
    assert TextAlignedMap(tiny, other)(images).shape == (1, 12, 3, 4)
    assert seen[0].shape == (1, 3, 12, 16)
    pixels = F.interpolate(images, (12, 16), mode="bilinear", antialias=True) * 127.5 + 127.5
    expected = (pixels - torch.tensor(other.mean).view(3, 1, 1)) / torch.tensor(other.std).view(3, 1, 1)
    torch.testing.assert_close(seen[0], expected)
    other.strides = (2,)
    assert TextAlignedMap(tiny, other)(images).shape == (1, 12, 6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affinity": 2}, "block 2 does not exist; use 0 to 1"),
        ({"affinity": {"type": "PEBackbone", "variant": TINY, "layers": [0, 0]}}, "gives 2 maps; choose one"),
        ({"affinity": nn.Identity()}, "Identity has no patch_size"),
        ({"beta": -0.5}, "beta -0.5 must be 0 or more"),
        ({"beta": float("nan")}, "beta nan must be 0 or more"),
        ({"gamma": 0}, "gamma 0 must be above 0"),
    ],
)
def test_what_cannot_be(tiny, options, message):
    with pytest.raises(OptionError, match=message):
        TextAlignedMap(tiny, **options)


def test_an_encoder_without_words_is_refused():
    with pytest.raises(OptionError, match="PE-Spatial-B16-512 has no text tower.*PE-Core-B16-224"):
        TextAlignedMap({"variant": "PE-Spatial-B16-512"})
