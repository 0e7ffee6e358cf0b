"""Every model takes adapters (LoRA): it begins as without them, trains them and its heads, and merges to itself."""

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.utils import apply_to

from pe_spatial.backbones.lora import is_adapter
from pe_spatial.common.errors import ConfigError
from pe_spatial.training.config import load_config

CONFIGS = (
    "demo/mask_rcnn_tiny_shapes",
    "demo/deta_tiny_shapes",
    "demo/seg_linear_tiny_shapes",
    "segmentation/upernet_mini_coco_200it",
    "demo/seg_mask_decoder_tiny_shapes",
    "demo/depth_dpt_tiny_shapes",
    "demo/depth_linear_tiny_shapes",
)
LORA = ["model.backbone.lora={rank: 2}", "model.backbone.checkpointing=true"]


def build(name, *changes):
    config = load_config(f"{name}.yaml", ["model.backbone.frozen=false", "model.backbone.weights=null", *changes])
    torch.manual_seed(0)
    return MODELS.build(config.model)


def raw(model):
    """All tensors that a model returns for two images."""
    found = []
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    apply_to(model(image), lambda node: isinstance(node, torch.Tensor), found.append)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_in_every_model(name):
    plain, adapted = build(name).eval(), build(name, *LORA).eval()
    state = adapted.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in plain.state_dict().items())
    with torch.no_grad():
        assert all(map(torch.equal, raw(adapted), raw(plain)))

    sum(tensor.float().square().mean() for tensor in raw(adapted.train()) if tensor.requires_grad).backward()
    found = {key for key, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert {key for key in found if key.startswith("backbone.")} == set(filter(is_adapter, state))
    assert any(not key.startswith("backbone.") for key in found)

    with torch.no_grad():
        for key, parameter in adapted.eval().named_parameters():
            if is_adapter(key):
                parameter.normal_(std=0.02)
        expected = raw(adapted)
        adapted.backbone.merge_adapters()
        assert adapted.state_dict().keys() == plain.state_dict().keys()
        if "deta" not in name:  # it picks the tokens of the best scores, and a rounding may pick others
            torch.testing.assert_close(raw(adapted), expected, atol=1e-5, rtol=1e-4)


def test_a_student_of_the_alignment_takes_none():
    changes = ["model.student.weights=null", "model.teachers.core.weights=null", "model.student.lora={}"]
    with pytest.raises(ConfigError, match=r"student\.lora: alignment trains a whole encoder"):
        MODELS.build(load_config("demo/alignment_tiny_shapes.yaml", changes).model)
