"""The rule by which the golden weights and inputs of `tests/data` were drawn, and the encoder of most of them."""

import zlib
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parents[1] / "data"
ENCODER = {
    "name": "golden",
    "patch_size": 16,
    "width": 64,
    "depth": 4,
    "heads": 4,
    "mlp_ratio": 4.0,
    "image_size": 128,
    "cls_token": False,
    "layer_scale": 0.1,
}


def draw(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def draw_for(key, shape):
    """Standard normal numbers that depend on the key alone."""
    return draw(zlib.crc32(key.encode()), shape)


def scale(key, x):
    """Drawn numbers as a weight, a layer scale, a norm or a bias, by shape and name."""
    if x.ndim >= 2:
        return x / np.sqrt(np.prod(x.shape[1:]))
    if key.endswith("gamma"):
        return 0.1 + 0.02 * x
    if key.endswith("weight"):
        return 1 + 0.1 * x
    return 0.02 * x


def fill(module, prefix="", shapes=None):
    """Give a module the weights that the rule draws for its keys, behind `prefix`; `shapes` overrides shapes."""
    state = {}
    for key, tensor in module.state_dict().items():
        shape = (shapes or {}).get(key, tuple(tensor.shape))
        state[key] = scale(key, draw_for(prefix + key, shape)).reshape(tensor.shape)
    module.load_state_dict(state)
    return module.eval()
