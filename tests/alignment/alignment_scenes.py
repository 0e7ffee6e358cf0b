"""A student of a few thousand parameters, the file it starts from, and packed samples with instances."""

import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

import pe_spatial.alignment  # noqa: F401 - registers
import pe_spatial.data  # noqa: F401
from pe_spatial.backbones import VisionTransformer, get_variant
from pe_spatial.common.tensors import write_tensor_file

CORE = {
    "name": "test",
    "patch_size": 8,
    "width": 16,
    "depth": 4,
    "heads": 2,
    "mlp_ratio": 2.0,
    "image_size": 32,
    "cls_token": False,
}
SPATIAL = {**CORE, "layer_scale": 0.1}


def write_core(path, seed=0, **changes):
    """Random weights of a PE-Core: with its head, without LayerScale."""
    torch.manual_seed(seed)
    head = {"ln_post": True, "attn_pool": True, "pool_heads": 2, "output_dim": 4}
    encoder = VisionTransformer(get_variant({**CORE, **head, **changes}))
    write_tensor_file(encoder.state_dict(), path)
    return str(path)


def settings(weights=None, **changes):
    """The model's section of a config: both losses, exact masks."""
    return {
        "type": "SpatialAlignment",
        "student": {"type": "PEBackbone", "variant": CORE, "weights": weights},
        "teachers": {
            "core": {"type": "LayerTeacher", "variant": CORE, "weights": weights, "layer": 0.5},
            "masks": {"type": "InstanceMaskTeacher"},
        },
        "semantic": {"teacher": "core"},
        "locality": {"teacher": "masks"},
        **changes,
    }


def scene(seed=0, size=32, hidden=None):
    """A packed sample: noise, a left and a lower right rectangle."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, size, size), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(2, size, size, dtype=torch.bool)
    masks[0, :, : size // 2] = True
    masks[1, size // 2 :, size // 2 :] = True
    sample = BaseDataElement(metainfo={"img_path": f"{seed}.png", "img_shape": (size, size)})
    sample.gt_instances = InstanceData(masks=masks)
    if hidden is not None:
        sample.set_field(PixelData(data=hidden), "token_mask", dtype=PixelData)
    return {"inputs": image, "data_samples": sample}


def batch(*scenes):
    return {key: [item[key] for item in scenes] for key in ("inputs", "data_samples")}
