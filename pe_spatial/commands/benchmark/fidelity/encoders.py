"""The encoders and the detection backbone against Meta's `perception_models`."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from pe_spatial.backbones import PEBackbone, VisionTransformer, get_variant
from pe_spatial.commands.benchmark.fidelity.rule import (
    ENCODER,
    SMALL,
    Difference,
    Golden,
    draw,
    fill,
    largest_difference,
)

_BASE: dict[str, Any] = {**SMALL, "cls_token": True}
_GIANT: dict[str, Any] = {
    "patch_size": 14,
    "width": 96,
    "depth": 5,
    "heads": 4,
    "mlp_ratio": 8960 / 1536,
    "image_size": 112,
    "cls_token": False,
}
_CORE = {"attn_pool": True, "ln_post": True}
ENCODERS: dict[str, dict[str, Any]] = {
    "spatial_nocls_ls": {**_GIANT, "layer_scale": 0.1},
    "spatial_cls": _BASE,
    "core_cls": {**_BASE, **_CORE, "output_dim": 48},
    "core_nocls": {**_GIANT, **_CORE, "output_dim": 80},
}
_MEANING = {
    "spatial_nocls_ls": "PE-Spatial, built like G (layer scale, no class token)",
    "spatial_cls": "PE-Spatial with a class token",
    "core_cls": "PE-Core with a class token, pooled output included",
    "core_nocls": "PE-Core, built like G, pooled output included",
}
_GRIDS = {"native": (8, 8), "small": (5, 7), "large": (11, 13)}
_WINDOWED: dict[str, tuple[int, dict[str, Any]]] = {
    "global_tile_128": (128, {"pos_embed": "tile"}),
    "global_tile_256": (256, {"pos_embed": "tile"}),
    "window8_glob13_256": (256, {"pos_embed": "tile", "window": 8, "global_blocks": [1, 3]}),
    "window8_all_160_padded": (160, {"pos_embed": "tile", "window": 8}),
    "global_bicubic_192": (192, {"pos_embed": "bicubic"}),
}
_ALLOWED = 2e-5


def build_encoder(fields: dict[str, Any]) -> VisionTransformer:
    """An encoder in evaluation mode."""
    return VisionTransformer(get_variant(fields)).eval()


def compare_encoders(folder: Path) -> list[Difference]:
    """Tokens after every block and after the norm, and the output, at the native grid and at two others."""
    lines = []
    for name, fields in ENCODERS.items():
        golden = Golden(folder / f"backbone_{name}.npz")
        model = fill(build_encoder(fields))
        pairs = []
        for grid, (rows, columns) in _GRIDS.items():
            patch = model.config.patch_size
            x = draw(0, (2, 3, rows * patch, columns * patch))
            blocks = model.forward_features(x, range(model.config.depth))
            pairs += [(tokens, golden[f"{grid}/block{number}"]) for number, tokens in enumerate(blocks)]
            pairs.append((model.forward_features(x, norm=True)[0], golden[f"{grid}/last_norm"]))
            output = "last_norm" if model.attn_pool is None else "forward"
            pairs.append((model(x), golden[f"{grid}/{output}"]))
        lines.append(largest_difference(f"{_MEANING[name]}: tokens of all blocks, three sizes", pairs, _ALLOWED))
    return lines


def compare_clip(folder: Path) -> list[Difference]:
    """What CLIP's image tower says of images and of the frames of videos, with and without a class token."""
    small = {**_BASE, **_CORE, "depth": 3, "image_size": 64, "output_dim": 48}
    giant = {**_GIANT, **_CORE, "depth": 3, "image_size": 56, "output_dim": 80}
    pairs = []
    for file, fields, images, frames in (
        ("clip.npz", small, 2, 4),
        ("clip_cls_context32.npz", small, 3, 8),
        ("clip_nocls_context72.npz", giant, 3, 8),
    ):
        golden, side = Golden(folder / file), fields["image_size"]
        model = fill(build_encoder(fields), prefix="visual.")
        raw = model(draw(0, (images, 3, side, side)))
        clips = model(draw(1, (2, frames, 3, side, side)).flatten(0, 1)).unflatten(0, (2, frames))
        ours = {
            "image_raw": raw,
            "image_features": F.normalize(raw, dim=-1),
            "frame_features": F.normalize(clips, dim=-1),
            "video_features": F.normalize(clips, dim=-1).mean(dim=1),
        }
        pairs += [(features, golden[name]) for name, features in ours.items() if name in golden]
    return [largest_difference("PE-Core as CLIP's image tower: features of images and videos", pairs, _ALLOWED)]


def compare_lang(folder: Path) -> list[Difference]:
    """The tokens of PE-Lang for the tiles of a picture, with and without a class token."""
    golden = Golden(folder / "plm.npz")
    pairs = []
    for name in ("cls", "nocls"):
        fields = {**_BASE, "patch_size": 14, "depth": 3, "image_size": 56, "layer_scale": 0.1}
        model = fill(build_encoder({**fields, "cls_token": name == "cls"}), prefix="vision_model.")
        tokens = model.forward_features(torch.from_numpy(golden["landscape/tiles"]))[0]
        theirs = golden[f"{name}/features"]
        pairs.append((tokens[:, -theirs.shape[1] :], theirs))  # the class token, which is left out, comes first
    return [largest_difference("PE-Lang: tokens of seven tiles, with and without class token", pairs, _ALLOWED)]


def compare_detection_backbone(folder: Path) -> list[Difference]:
    """The last map with global attention and windows, padded or not, and both ways of resizing positions."""
    golden = Golden(folder / "backbone_windowed.npz")
    pairs = []
    for name, (size, options) in _WINDOWED.items():
        backbone = PEBackbone(ENCODER, rope="interpolate", **options).eval()
        fill(backbone.encoder, shapes={"positional_embedding": (1, 64, 64)})  # the official one has a batch dimension
        pairs.append((backbone(draw(0, (2, 3, size, size)))[0], golden[name]))
    what = "detection backbone: global and windowed attention, tiled and bicubic positions, padding"
    return [largest_difference(what, pairs, _ALLOWED)]
