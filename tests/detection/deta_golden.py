"""Weights and pictures of the official DETA whose results are in `tests/data/deta*`; see that folder's tests."""

import json

import numpy as np
import torch
from golden import DATA, draw, scale

SIZES = ((224, 256), (256, 192))  # of the pictures, padded to 256 x 256


def official_weights():
    """State dict of the official model, second names of the heads included."""
    shapes = json.loads((DATA / "deta_keys.json").read_text())
    names = [key for key in shapes if not key.startswith(("transformer.decoder.bbox", "transformer.decoder.class"))]
    weights = {key: torch.from_numpy(fill(key, shapes[key])) for key in names}
    return weights | {key: weights[key.removeprefix("transformer.decoder.")] for key in shapes if key not in weights}


def fill(key, shape):
    x = draw(key, shape)
    if key.startswith("bbox_embed") and key.endswith("layers.2.weight"):
        x = x * np.float32(0.1)
    return scale(key, x)


def pictures():
    batch = torch.zeros(2, 3, 256, 256)
    for seed, (height, width) in enumerate(SIZES):
        image = np.random.default_rng(seed).standard_normal((3, height, width)).astype(np.float32)
        batch[seed, :, :height, :width] = torch.from_numpy(image)
    return batch
