"""The layouts in which Perception Encoder weights travel, and the maps between them.

All conversions go through the official layout: the keys and shapes of `VisionTransformer`. Every map is a bijection on
what an encoder learns. What it does not learn (rotary tables, the zero bias of timm's head) is dropped one way and
restored the other. SAM 3's layout is read and not written.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pe_spatial.common.errors import few
from pe_spatial.common.tensors import WeightsError

# a training checkpoint keeps the weights under one of these
CONTAINERS = ("state_dict", "weights", "model", "module")

TEXT_REASON = "text tower"
ROTARY_REASON = "rotary tables, which are recomputed"
_ROTARY = re.compile(r"(^|\.)((rope|rope_win|rope_glb)\.|freqs_cis$)")
_BLOCK_INDEX = re.compile(r"(?<=blocks\.)\d+(?=\.)")

_SAM3_MARK = "ln_pre.weight"  # what timm calls norm_pre; else both name the same parts alike
_HEAD = ("ln_post.", "attn_pool.", "proj")

# what ends the name of an encoder's root: the part of its prefix before the last dot
_FAMILY_OF_ROOT = {"": "official", "visual": "CLIP", "net": "Detectron2", "body": "DETA", "encoder": "pe_spatial"}


@dataclass(frozen=True)
class Layout:
    """How a file names an encoder.

    Args:
        family: `official`, `CLIP`, `pe_spatial`, `Detectron2`, `DETA`, `timm`, `SAM 3` or `official (nested)`.
        prefix: What precedes every key of the encoder.
        container: Name of the entry that holds the tensors, or empty where they are at the top.
    """

    family: str
    prefix: str = ""
    container: str = ""

    @property
    def outside(self) -> str:
        """What a tensor without the prefix is."""
        return TEXT_REASON if self.family == "CLIP" else "not part of the encoder"

    @property
    def conversions(self) -> list[str]:
        """What `to_official` changes besides names and dimensions of size 1."""
        return ["position of the class token left out, which SAM 3 does not use"] if self.family == "SAM 3" else []

    def __str__(self) -> str:
        parts = [f"{self.family} layout"]
        if self.container:
            parts.append(f"inside {self.container!r}")
        if self.prefix:
            parts.append(f"under {self.prefix!r}")
        return ", ".join(parts)


def unwrap(content: Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a checkpoint and the name of the entry that holds them (empty: the top level)."""
    inner = next((name for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
    if inner is None:
        return {key: value for key, value in content.items() if isinstance(value, Tensor)}, ""
    tensors, below = unwrap(content[inner])
    return tensors, f"{inner}.{below}" if below else inner


def recognize(keys: Iterable[str], container: str = "") -> Layout:
    """Return the layout in which a file names its encoder.

    Raises:
        WeightsError: The keys hold no encoder, or more than one.
    """
    names = list(keys)
    official = _roots(names, "conv1.weight", "transformer.resblocks.")
    timm = _roots(names, "patch_embed.proj.weight", "blocks.")
    if len(official) + len(timm) > 1:
        raise WeightsError(
            f"the file holds {len(official) + len(timm)} encoders, under {sorted(official + timm)}; "
            "save only the one that you want"
        )
    if timm:
        return Layout("SAM 3" if timm[0] + _SAM3_MARK in names else "timm", timm[0], container)
    if official:
        root = official[0].removesuffix(".").rpartition(".")[2]
        if root == "module":
            root = ""
        return Layout(_FAMILY_OF_ROOT.get(root, "official (nested)"), official[0], container)
    raise WeightsError(
        f"no Perception Encoder among the {len(names)} tensors of the file (first: {few(names) or 'none'}); "
        "supported are the official layout, CLIP and training checkpoints, timm, Detectron2, DETA and SAM 3, all with "
        "`conv1.weight` or `patch_embed.proj.weight`; give another file"
    )


def _roots(names: list[str], stem: str, blocks: str) -> list[str]:
    """Prefixes under which both the stem and at least one block are found."""
    prefixes = [name.removesuffix(stem) for name in names if name == stem or name.endswith("." + stem)]
    return [prefix for prefix in prefixes if any(name.startswith(prefix + blocks) for name in names)]


def to_official(tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the encoder in the official layout, and the ignored keys with the reason for each.

    Keys that the layout does not know keep their name, so that the strict check can name them.
    """
    encoder: dict[str, Tensor] = {}
    ignored: dict[str, str] = {}
    for key, tensor in tensors.items():
        if not key.startswith(layout.prefix):
            ignored[key] = layout.outside
        elif _ROTARY.search(key):
            ignored[key] = ROTARY_REASON
        elif layout.family == "DETA" and key.startswith(layout.prefix + "fpn"):
            ignored[key] = layout.outside  # DETA keeps its pyramid inside the encoder
        else:
            encoder[key.removeprefix(layout.prefix)] = tensor
    if layout.family == "timm":
        return _from_timm(encoder, layout, ignored), ignored
    if layout.family == "SAM 3":
        return _from_sam3(encoder), ignored
    table = encoder.get("positional_embedding")
    if table is not None and table.ndim == 3 and table.shape[0] == 1:
        encoder["positional_embedding"] = table[0]  # [1, N, C] -> [N, C]
    return encoder, ignored


def to_detectron2(
    state: Mapping[str, Tensor], prefix: str = "backbone.net."
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Name an encoder as the Detectron2 backbone does, its position table [1, N, C]; without its rotary buffers.

    Returns:
        The renamed encoder, and the keys that the backbone has no place for, each with the reason: the class token,
        which windows leave out, and PE-Core's head.
    """
    encoder: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for key, tensor in state.items():
        if key == "class_embedding":
            dropped[key] = "class token, which windows leave out"
        elif key.startswith(_HEAD):
            dropped[key] = "head of PE-Core, which detection does not use"
        elif key == "positional_embedding":
            encoder[prefix + key] = tensor[int("class_embedding" in state) :][None]  # [N, C] -> [1, h * w, C]
        else:
            encoder[prefix + key] = tensor
    return encoder, dropped


def _modules(pairs: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{leaf}": f"{theirs}.{leaf}" for ours, theirs in pairs.items() for leaf in ("weight", "bias")}


# official -> timm (its class Eva); # stands for the index of a block
_TIMM_KEYS = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.weight": "patch_embed.proj.weight",
    "transformer.resblocks.#.attn.in_proj_weight": "blocks.#.attn.qkv.weight",
    "transformer.resblocks.#.attn.in_proj_bias": "blocks.#.attn.qkv.bias",
    "transformer.resblocks.#.ls_1.gamma": "blocks.#.gamma_1",
    "transformer.resblocks.#.ls_2.gamma": "blocks.#.gamma_2",
    "attn_pool.probe": "attn_pool.latent",
    **_modules(
        {
            "ln_pre": "norm_pre",
            "ln_post": "norm",
            "transformer.resblocks.#.attn.out_proj": "blocks.#.attn.proj",
            "transformer.resblocks.#.ln_1": "blocks.#.norm1",
            "transformer.resblocks.#.ln_2": "blocks.#.norm2",
            "transformer.resblocks.#.mlp.c_fc": "blocks.#.mlp.fc1",
            "transformer.resblocks.#.mlp.c_proj": "blocks.#.mlp.fc2",
            "attn_pool.attn.out_proj": "attn_pool.proj",
            "attn_pool.layernorm": "attn_pool.norm",
            "attn_pool.mlp.c_fc": "attn_pool.mlp.fc1",
            "attn_pool.mlp.c_proj": "attn_pool.mlp.fc2",
        }
    ),
}
_OFFICIAL_KEYS = {theirs: ours for ours, theirs in _TIMM_KEYS.items()}
_LEADING_ONES = {"class_embedding": 2, "positional_embedding": 1}  # dimensions of size 1 that timm puts in front


def _rename(key: str, table: Mapping[str, str]) -> str:
    """Translate a key by a table in which # stands for the index of a block; an unknown key keeps its name."""
    index = _BLOCK_INDEX.search(key)
    name = table.get(_BLOCK_INDEX.sub("#", key, count=1))
    if name is None:
        return key
    return name.replace("#", index.group()) if index else name


def to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name an encoder as timm's `vit_pe_*` models do; build those with `num_classes` = output_dim, or 0 without."""
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "proj":
            renamed["head.weight"] = tensor.T  # [C, O] -> [O, C]
            renamed["head.bias"] = torch.zeros(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
        elif key.startswith("attn_pool.attn.in_proj_"):
            leaf = key.removeprefix("attn_pool.attn.in_proj_")
            width = len(tensor) // 3
            renamed[f"attn_pool.q.{leaf}"], renamed[f"attn_pool.kv.{leaf}"] = tensor[:width], tensor[width:]
        else:
            renamed[_rename(key, _TIMM_KEYS)] = tensor[(None,) * _LEADING_ONES.get(key, 0)]
    return renamed


def _from_timm(state: Mapping[str, Tensor], layout: Layout, ignored: dict[str, str]) -> dict[str, Tensor]:
    """Inverse of `to_timm`; notes in `ignored` the zero bias of the head.

    Raises:
        WeightsError: The head has a bias that is not zero, which the official projection cannot hold.
    """
    official: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "head.weight":
            official["proj"] = tensor.T.contiguous()  # [O, C] -> [C, O]
        elif key == "head.bias":
            if tensor.count_nonzero():
                raise WeightsError(
                    "`head.bias` is not zero and the official projection has no bias: this is a fine-tuned classifier; "
                    "remove `head.*` from the file and use a variant without output_dim"
                )
            ignored[layout.prefix + key] = "zero bias that timm adds to the projection"
        elif (leaf := key.removeprefix("attn_pool.q.")) != key and f"attn_pool.kv.{leaf}" in state:
            official[f"attn_pool.attn.in_proj_{leaf}"] = torch.cat([tensor, state[f"attn_pool.kv.{leaf}"]])
        elif not (key.startswith("attn_pool.kv.") and key.replace(".kv.", ".q.") in state):
            name = _rename(key, _OFFICIAL_KEYS)
            official[name] = _without_leading_ones(name, tensor)
    return official


def _without_leading_ones(name: str, tensor: Tensor) -> Tensor:
    ones = _LEADING_ONES.get(name, 0)  # where there are none, the strict check reports the shape
    return tensor.reshape(tensor.shape[ones:]) if tensor.shape[:ones] == (1,) * ones else tensor


def _from_sam3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name SAM 3's trunk officially, without the position of the class token, which is the first of its table.

    Its class is `ViT` of `sam3/model/vitdet.py` in github.com/facebookresearch/sam3 at commit 99d02f2; its forward
    drops that row (`get_abs_pos`). `sam3/model_builder.py` reads the released file into a model in which the trunk is
    `detector.backbone.vision_backbone.trunk`; models of images alone have it without `detector.`.
    """
    official: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _rename(key, _OFFICIAL_KEYS)
        tensor = _without_leading_ones(name, tensor)
        official[name] = tensor[1:] if name == "positional_embedding" and tensor.ndim else tensor
    return official
