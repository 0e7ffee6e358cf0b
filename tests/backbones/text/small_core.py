"""A PE-Core that several tests build in no time."""

import torch

from pe_spatial.backbones import PECore

TINY = {
    "name": "tiny",
    "patch_size": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_ratio": 2,
    "image_size": 16,
    "cls_token": True,
    "ln_post": True,
    "attn_pool": True,
    "output_dim": 12,
    "text": {"context": 16, "width": 16, "depth": 1, "heads": 2},
}
WIDER = {**TINY, "depth": 2, "image_size": 32}


def lively_core(shape, seed):
    """A PE-Core whose features differ from place to place and from word to word."""
    torch.manual_seed(seed)
    model = PECore(shape)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model
