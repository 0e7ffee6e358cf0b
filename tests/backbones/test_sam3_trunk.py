"""SAM 3's trunk: its file gives its maps, and nothing else is taken for it.

`keys/sam3_trunk.json` is the state dict of the public class (`sam3/model/vitdet.py` of
github.com/facebookresearch/sam3 at commit 99d02f2) with the arguments of `sam3/model_builder.py`, under the name that
the trunk has in the released model. `backbone_sam3.npz` holds the maps that the same class gave after its global
blocks, in float32 on a CPU, with these arguments but for sizes: img_size 168 (`whole`) and 140 (`padded`: the last
windows are), pretrain_img_size 56, embed_dim 32, depth 4, num_heads 4, window_size 4, global_att_blocks (1, 3),
return_interm_layers. Weights and images follow the rule of the golden files, the weights by their names in that model.
"""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch

from pe_spatial.backbones import VARIANTS, PEBackbone, dense, get_variant
from pe_spatial.backbones.named import named_encoder
from pe_spatial.backbones.variants import TRAINED_WITH, Training
from pe_spatial.backbones.weights import find, load_state_dict
from pe_spatial.backbones.weights.loading import expected_shapes, fitting_variants
from pe_spatial.backbones.weights.source import FOLDER_VARIABLE
from pe_spatial.commands.benchmark.fidelity.rule import Golden, draw, draw_for, scale
from pe_spatial.common.tensors import WeightsError

DATA = Path(__file__).parents[1] / "data"
NAME = "SAM3-L14-1008"
TRUNK = "detector.backbone.vision_backbone.trunk."
SMALL = get_variant({"base": NAME, "name": "small", "width": 32, "depth": 4, "heads": 4, "image_size": 56})
OPTIONS = {**TRAINED_WITH[NAME].options, "window": 4, "global_blocks": [1, 3]}
BESIDE = {
    "detector.backbone.vision_backbone.convs.0.dconv_2x2_0.weight": torch.ones(32, 16, 2, 2),
    "detector.backbone.language_backbone.encoder.positional_embedding": torch.ones(4, 8),
    "detector.backbone.language_backbone.encoder.transformer.resblocks.0.ln_1.weight": torch.ones(8),
    "detector.transformer.decoder.layers.0.norm1.weight": torch.ones(8),
    "tracker.maskmem_tpos_enc": torch.ones(7, 1, 1, 8),
}


def small_shapes():
    """Keys and shapes of the small trunk, from those of the whole one."""
    sizes = {3072: 96, 4736: 148, 1024: 32, 577: 17}  # width 32, MLP of 4.625 times that, a grid of 4 x 4
    whole = json.loads((DATA / "keys" / "sam3_trunk.json").read_text())
    blocks = tuple(f"{TRUNK}blocks.{number}." for number in range(4, 32))
    kept = {key: shape for key, shape in whole.items() if not key.startswith(blocks)}
    return {key: [sizes.get(size, size) for size in shape] for key, shape in kept.items()}


def small_state(prefix=TRUNK):
    """The file of the small trunk, rotary buffers included, under any prefix."""
    state = {}
    for key, shape in small_shapes().items():
        is_rotary = key.endswith("freqs_cis")
        tensor = torch.ones(shape, dtype=torch.complex64) if is_rotary else scale(key, draw_for(key, shape))
        state[prefix + key.removeprefix(TRUNK)] = tensor
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A whole SAM 3: its trunk, and what stands beside it."""
    path = tmp_path_factory.mktemp("sam3") / "sam3.pt"
    torch.save({"model": {**small_state(), **BESIDE}}, path)
    return path


@pytest.mark.parametrize(("name", "side"), [("whole", 168), ("padded", 140)])
def test_maps_are_those_of_the_public_code(checkpoint, name, side):
    golden = Golden(DATA / "backbone_sam3.npz")
    backbone = PEBackbone(SMALL, layers=[1, 3], weights=str(checkpoint), **OPTIONS).eval()
    with torch.inference_mode():
        maps = backbone(draw(0, (2, 3, side, side)))
    for block, found in zip((1, 3), maps, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(golden[f"{name}/block{block}"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "changed", [{"window": 6}, {"global_blocks": [3]}, {"rope": "extrapolate"}, {"pos_embed": "bicubic"}]
)
def test_each_option_matters(checkpoint, changed):
    golden = Golden(DATA / "backbone_sam3.npz")["whole/block3"]
    backbone = PEBackbone(SMALL, weights=str(checkpoint), **{**OPTIONS, **changed}).eval()
    with torch.inference_mode():
        found = backbone(draw(0, (2, 3, 168, 168)))[0]
    assert (found - torch.from_numpy(golden)).abs().max() > 0.01


def test_the_shapes_name_the_variant():
    assert fitting_variants(expected_shapes(VARIANTS[NAME])) == [NAME]


@pytest.mark.parametrize(("patch", "side"), [(None, 1008), (16, 1152)])
def test_the_name_stands_for_what_the_trunk_was_trained_with(patch, side):
    section = named_encoder(NAME, "none")
    assert section.pop("type") == "PEBackbone"
    with torch.device("meta"):
        backbone = PEBackbone(**section, patch_size=patch)
    assert backbone.image_size == side
    assert [number for number, cut in enumerate(backbone.encoder.windowed) if not cut] == [7, 15, 23, 31]
    assert (backbone.encoder.rope_reference, backbone.encoder.pos_embed) == (24, "tile")
    assert named_encoder(NAME, None)["weights"] == NAME
    assert "window" not in named_encoder("PE-Spatial-T16-512", None)


def test_weights_in_another_use_than_their_own_are_named(checkpoint, monkeypatch):
    logged = []
    monkeypatch.setattr(dense, "print_log", lambda message, *_: logged.append(message))
    monkeypatch.setitem(TRAINED_WITH, "small", Training(12, OPTIONS))
    assert PEBackbone(SMALL, weights=str(checkpoint), **{**OPTIONS, "global_blocks": (-1, 1)}).image_size == 168
    assert len(logged) == 1  # the report
    PEBackbone(SMALL, weights=str(checkpoint))
    assert "small was trained with window: 4, global_blocks: [1, 3], rope: interpolate, pos_embed: tile" in logged[-1]


def test_only_the_trunk_of_a_whole_model_is_taken(checkpoint):
    state, report = load_state_dict(checkpoint, SMALL)
    assert str(report.layout) == f"SAM 3 layout, inside 'model', under '{TRUNK}'"
    rotary = {key for key in small_state() if key.endswith("freqs_cis")}
    assert set(report.ignored) == rotary | set(BESIDE)
    assert report.tensors == len(state) == len(small_state()) - len(rotary)
    assert "5 tensors (not part of the encoder: " in str(report)
    assert "4 tensors (rotary tables, which are recomputed: " in str(report)
    assert "position of the class token left out" in str(report)
    assert torch.equal(state["positional_embedding"], small_state()[f"{TRUNK}pos_embed"][0, 1:])


@pytest.mark.parametrize("prefix", ["", "backbone.vision_backbone.trunk.", "module.trunk."])
def test_the_trunk_is_found_under_any_name(tmp_path, checkpoint, prefix):
    torch.save(small_state(prefix), tmp_path / "trunk.pt")
    found, report = load_state_dict(tmp_path / "trunk.pt", SMALL)
    assert report.layout.prefix == prefix
    for key, tensor in load_state_dict(checkpoint, SMALL)[0].items():
        assert torch.equal(found[key], tensor), key


def refuse(path, content, match):
    torch.save(content, path)
    with pytest.raises(WeightsError, match=match):
        load_state_dict(path, SMALL)


def test_other_models_and_damaged_trunks_are_refused(tmp_path):
    path = tmp_path / "file.pt"
    sam2 = {
        "image_encoder.trunk.pos_embed": torch.ones(1, 8, 7, 7),
        "image_encoder.trunk.patch_embed.proj.weight": torch.ones(8, 3, 7, 7),
        "image_encoder.trunk.blocks.0.norm1.weight": torch.ones(8),
        "memory_attention.norm.weight": torch.ones(8),
    }
    refuse(path, {"model": sam2}, r"does not fit small: .* keys missing")
    lacking = small_state()
    del lacking[f"{TRUNK}blocks.2.mlp.fc1.bias"]
    refuse(path, lacking, r"1 of \d+ keys missing \(transformer\.resblocks\.2\.mlp\.c_fc\.bias\)")
    refuse(
        path, {**small_state(), f"{TRUNK}ln_post.bias": torch.ones(32), f"{TRUNK}x": torch.ones(1)}, "1 of .*unexpec"
    )
    refuse(path, {**small_state(), f"{TRUNK}pos_embed": torch.ones(1, 16, 32)}, r"positional_embedding is \[15, 32\]")
    refuse(path, {**small_state(), f"{TRUNK}pos_embed": torch.ones(())}, r"positional_embedding is \[\]")
    refuse(path, {**small_state(), **small_state("tracker.backbone.trunk.")}, "holds 2 encoders")
    beside = {key: tensor for key, tensor in BESIDE.items() if "convs" not in key}
    refuse(path, beside, "no Perception Encoder .*Detectron2, DETA and SAM 3")


@pytest.mark.parametrize("file", ["sam3.pt", "SAM3-L14-1008.safetensors", "SAM3-L14-1008/sam3.pt"])
def test_the_file_is_found_under_both_names(monkeypatch, tmp_path, file):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert find(NAME) == tmp_path / file


def test_a_trunk_that_cannot_be_fetched_says_where_it_is(monkeypatch):
    asked = []

    def ask(url):
        asked.append(url)
        raise ConnectionError("gated")

    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names, revision: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", ask)
    with pytest.raises(
        FileNotFoundError, match=r"sam3\.pt is not on this machine .*huggingface\.co/facebook/sam3 .*gated"
    ):
        find(NAME)
    assert asked[0].endswith("facebook/sam3/resolve/main/sam3.pt")
