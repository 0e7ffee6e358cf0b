"""Every size of encoder against timm's model of the same name, at the native image size, on the same random weights.

Depth is cut where a whole encoder would take minutes or gigabytes: T runs whole, the others one to three of their
blocks, at full width and with their own heads, patches, tables, norms, pooling and projection.
"""

import pytest
import torch

from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.common.initialization import SkipInitialization

timm = pytest.importorskip("timm")
eva = pytest.importorskip("timm.models.eva")

CASES = [
    ("PE-Core-T16-384", "vit_pe_core_tiny_patch16_384", 12),
    ("PE-Core-S16-384", "vit_pe_core_small_patch16_384", 3),
    ("PE-Core-B16-224", "vit_pe_core_base_patch16_224", 3),
    ("PE-Core-L14-336", "vit_pe_core_large_patch14_336", 1),
    ("PE-Core-G14-448", "vit_pe_core_gigantic_patch14_448", 1),
    ("PE-Lang-L14-448", "vit_pe_lang_large_patch14_448", 1),
    ("PE-Lang-G14-448", "vit_pe_lang_gigantic_patch14_448", 1),
    ("PE-Spatial-T16-512", "vit_pe_spatial_tiny_patch16_512", 12),
    ("PE-Spatial-S16-512", "vit_pe_spatial_small_patch16_512", 3),
    ("PE-Spatial-B16-512", "vit_pe_spatial_base_patch16_512", 2),
    ("PE-Spatial-L14-448", "vit_pe_spatial_large_patch14_448", 1),
    ("PE-Spatial-G14-448", "vit_pe_spatial_gigantic_patch14_448", 1),
]


@pytest.mark.parametrize(("name", "timm_name", "depth"), CASES, ids=[name for name, *_ in CASES])
@torch.no_grad()
def test_same_output_on_the_same_weights(name, timm_name, depth):
    config = get_variant({"base": name, "depth": depth})
    torch.manual_seed(0)
    ours = VisionTransformer(config).eval()
    for parameter in ours.parameters():
        if parameter.ndim == 1:  # move norms, biases and scales away from ones, zeros and 0.1
            parameter.add_(0.05 * torch.randn_like(parameter))
    with SkipInitialization():
        theirs = timm.create_model(timm_name, num_classes=config.output_dim or 0, depth=depth).eval()
    theirs.load_state_dict(eva.checkpoint_filter_fn(ours.state_dict(), theirs), strict=not config.attn_pool)
    if config.attn_pool:
        theirs.head.bias.zero_()  # the one parameter that only timm has
    x = torch.randn(1, 3, config.image_size, config.image_size)
    expected = theirs(x) if config.attn_pool else theirs.forward_features(x)
    torch.testing.assert_close(ours(x), expected, atol=2e-5, rtol=0)
