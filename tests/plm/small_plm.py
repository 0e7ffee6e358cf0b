"""A small PLM with the weights of the golden file, in every layout and in one file or several."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pe_spatial.backbones.weights import to_timm
from pe_spatial.commands.benchmark.fidelity.rule import draw_for, scale

DATA = Path(__file__).parents[1] / "data"
KEYS = {key: tuple(shape) for key, shape in json.loads((DATA / "plm_keys.json").read_text()).items()}
OFFICIAL, HF = "vision_model.", "model.vision_tower.timm_model."
PROJECTOR = {"0": "linear_1", "2": "linear_2"}
WORDS = {"tok_embeddings.weight": (7, 48), "layers.0.attention.wq.weight": (48, 48)}  # of the language model


def golden():
    with np.load(DATA / "plm.npz") as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def official_state(cls_token=True):
    """The tensors as Meta's checkpoint names them, those of a language model included."""
    shapes = {**KEYS, **WORDS}
    if not cls_token:
        del shapes[OFFICIAL + "class_embedding"]
        shapes[OFFICIAL + "positional_embedding"] = (16, 64)
    return {key: scale(key, draw_for(key, shape)) for key, shape in shapes.items()}


def hf_state(cls_token=True):
    """The same tensors as transformers names them."""
    state = official_state(cls_token)
    tower = {key.removeprefix(OFFICIAL): tensor for key, tensor in state.items() if key.startswith(OFFICIAL)}
    named = {HF + key: tensor.contiguous() for key, tensor in to_timm(tower).items()}
    for key, tensor in state.items():
        if key.startswith("vision_projector."):
            _, _, layer, leaf = key.split(".")
            named[f"model.multi_modal_projector.{PROJECTOR[layer]}.{leaf}"] = tensor
        elif not key.startswith(OFFICIAL):
            named[f"model.language_model.{key}"] = tensor
    return named


def params(cls_token=True, **changes):
    """What Meta's params.json says of it; `changes` are fields of the vision model."""
    vision = {"image_size": 56, "patch_size": 14, "width": 64, "layers": 3, "heads": 4, "use_cls_token": cls_token}
    data = {"vision_input_type": "thumb+tile", "max_num_tiles": 6, "max_video_frames": 8}
    return {"model": {"pooling_ratio": 2, "vision_model": {**vision, **changes}}, "data": data}


def config(cls_token=True, **changes):
    """What transformers' config.json says of it, with an architecture of another size; `changes` are model_args."""
    arguments = {"embed_dim": 64, "depth": 3, "num_heads": 4, "img_size": [56, 56], "ref_feat_shape": [4, 4]}
    vision = {"architecture": "vit_pe_core_large_patch14_336", "model_args": {**arguments, **changes}}
    stated = {"vision_use_cls_token": cls_token, "projector_pooling_ratio": 2}
    return {"model_type": "perception_lm", "vision_config": vision, **stated}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_official(folder, cls_token=True):
    write_json(folder / "params.json", params(cls_token))
    torch.save(official_state(cls_token), folder / "consolidated.pth")
    return folder


def write_hf(folder, cls_token=True):
    write_json(folder / "config.json", config(cls_token))
    save_file(hf_state(cls_token), folder / "model.safetensors")
    return folder


def write_shards(folder, state, parts, kind="safetensors"):
    """Write tensors to shards and their index; `parts` gives the prefixes of the keys of each. Returns the index."""
    stem, suffix = ("model", ".safetensors") if kind == "safetensors" else ("pytorch_model", ".bin")
    folder.mkdir(parents=True, exist_ok=True)
    names = {}
    for number, prefixes in enumerate(parts, 1):
        part = {key: tensor for key, tensor in state.items() if key.startswith(prefixes)}
        name = f"{stem}-{number:05d}-of-{len(parts):05d}{suffix}"
        names |= dict.fromkeys(part, name)
        (save_file if kind == "safetensors" else torch.save)(part, folder / name)
    assert names.keys() == state.keys()
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    return write_json(folder / f"{stem}{suffix}.index.json", index)


# the language model alone, the first blocks with the projector, the rest: as transformers cuts, anywhere
PARTS = (
    ("model.language_model.",),
    (f"{HF}blocks.0", f"{HF}patch_embed", f"{HF}pos_embed", f"{HF}cls_token", f"{HF}norm_pre", "model.multi_modal"),
    (f"{HF}blocks.1", f"{HF}blocks.2"),
)


def write_hf_shards(folder, kind="safetensors"):
    write_json(folder / "config.json", config())
    return write_shards(folder, hf_state(), PARTS, kind)
