"""The encoder and the rule of the weights with which the official detectors' numbers in `tests/data` were made."""

import zlib
from pathlib import Path

import numpy as np

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


def draw(key, shape):
    """Standard normal numbers that depend on the key alone."""
    return np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)


def scale(key, x):
    """Drawn numbers as a weight, a layer scale, a norm or a bias, by shape and name."""
    if x.ndim >= 2:
        return x / np.float32(np.sqrt(np.prod(x.shape[1:])))
    if key.endswith("gamma"):
        return np.float32(0.1) + np.float32(0.02) * x
    if key.endswith("weight"):
        return 1 + np.float32(0.1) * x
    return np.float32(0.02) * x


def fill(key, shape):
    return scale(key, draw(key, shape))
