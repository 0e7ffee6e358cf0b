"""Weights and pictures of the official DETA whose results are in `tests/data/deta*`; see that folder's tests."""

import json

import torch
from golden_rule import DATA, draw, draw_for, scale

SIZES = ((224, 256), (256, 192))  # of the pictures, padded to 256 x 256


def official_weights():
    """State dict of the official model, second names of the heads included."""
    shapes = json.loads((DATA / "deta_keys.json").read_text())
    names = [key for key in shapes if not key.startswith(("transformer.decoder.bbox", "transformer.decoder.class"))]
    weights = {key: fill(key, shapes[key]) for key in names}
    return weights | {key: weights[key.removeprefix("transformer.decoder.")] for key in shapes if key not in weights}


def fill(key, shape):
    x = draw_for(key, shape)
    if key.startswith("bbox_embed") and key.endswith("layers.2.weight"):
        x = x * 0.1
    return scale(key, x)


def pictures():
    batch = torch.zeros(2, 3, 256, 256)
    for seed, (height, width) in enumerate(SIZES):
        batch[seed, :, :height, :width] = draw(seed, (3, height, width))
    return batch
