"""Checkpoints of PLM: what sizes they have, and which are refused with which words."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_plm import (
    HF,
    config,
    golden,
    hf_state,
    official_state,
    params,
    write_hf,
    write_hf_shards,
    write_json,
    write_official,
)

from pe_spatial import PLMVision
from pe_spatial.backbones import VARIANTS
from pe_spatial.backbones.weights.loading import expected_shapes
from pe_spatial.common.errors import UserError
from pe_spatial.common.tensors import WeightsError
from pe_spatial.plm.checkpoint import read_checkpoint


def save(state, path):
    torch.save(state, path)
    return path


def without(state, *parts):
    return {key: tensor for key, tensor in state.items() if not any(part in key for part in parts)}


# --- sizes ------------------------------------------------------------------------------------------------------------
def test_sizes_come_from_model_args_and_not_from_the_name_of_the_architecture(tmp_path):
    found = read_checkpoint(write_hf(tmp_path))
    assert (found.encoder.width, found.encoder.depth, found.encoder.heads, found.encoder.image_size) == (64, 3, 4, 56)
    assert found.encoder.layer_scale is not None and not found.encoder.ln_post
    assert (found.dim, found.sizes.pooling, found.sizes.rope) == (48, 2, 4)


def test_what_model_args_leave_out_is_the_architectures(tmp_path):
    content = config()
    for name in ("num_heads", "ref_feat_shape"):
        del content["vision_config"]["model_args"][name]
    write_hf(tmp_path)
    write_json(tmp_path / "config.json", content)
    found = read_checkpoint(tmp_path)
    assert (found.encoder.heads, found.sizes.rope) == (16, 24)  # of vit_pe_core_large_patch14_336
    content["vision_config"]["architecture"] = "vit_pe_core_gigantic_patch14_448.fb"
    assert read_checkpoint(tmp_path, write_json(tmp_path / "other.json", content)).sizes.rope == 32


def test_tiles_and_pooling_are_as_the_files_say_or_as_the_caller_says(tmp_path):
    write_hf(tmp_path)
    write_json(
        tmp_path / "preprocessor_config.json", {"max_num_tiles": 5, "vision_input_type": "vanilla", "tile_size": 56}
    )
    model = PLMVision.from_files(tmp_path)
    assert (model.mode, model.max_tiles, model.max_frames, model.batch) == ("vanilla", 5, 32, 8)
    model = PLMVision.from_files(tmp_path, mode="thumb+tile", max_tiles=2, max_frames=3, pooling=4, batch=1)
    assert (model.mode, model.max_tiles, model.max_frames, model.tokens_per_tile) == ("thumb+tile", 2, 3, 1)
    (tmp_path / "preprocessor_config.json").unlink()
    write_json(tmp_path / "processor_config.json", {"image_processor": {"max_num_tiles": 7}})
    assert PLMVision.from_files(tmp_path).max_tiles == 7
    official = PLMVision.from_files(write_official(tmp_path / "meta"))
    assert (official.max_tiles, official.max_frames, official.projector.pooling) == (6, 8, 2)


def test_without_a_json_file_the_heads_have_to_be_said(tmp_path):
    path = save(official_state(), tmp_path / "consolidated.pth")
    with pytest.raises(WeightsError, match=r"the number of attention heads .*width 64\).*config.json .* or pass heads"):
        PLMVision.from_files(path)
    model = PLMVision.from_files(path, heads=4)
    with torch.no_grad():
        assert (model(golden()["landscape/tiles"]) - golden()["cls/tokens"]).abs().max() < 2e-5


def test_without_a_json_file_released_towers_are_known(tmp_path):
    shapes = expected_shapes(VARIANTS["PE-Lang-L14-448"])
    state = {f"vision_model.{key}": torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    width = {"0.weight": (8, 1024), "0.bias": (8,), "2.weight": (8, 8), "2.bias": (8,)}
    state |= {f"vision_projector.projector.{key}": torch.zeros(shape) for key, shape in width.items()}
    found = read_checkpoint(save(state, tmp_path / "x.pth"))
    assert (found.encoder.heads, found.encoder.depth, found.encoder.grid_size) == (16, 23, 32)
    assert (found.sizes.pooling, found.sizes.max_tiles, found.sizes.max_frames) == (2, 36, 32)


@pytest.mark.parametrize("hidden", [100, 187, 8960])
def test_any_mlp_is_described(tmp_path, hidden):
    state = official_state()
    for key in [key for key in state if ".mlp.c_" in key and not key.endswith("c_proj.bias")]:
        state[key] = torch.zeros(
            (hidden, 64) if key.endswith("c_fc.weight") else (64, hidden) if "c_proj" in key else (hidden,)
        )
    found = read_checkpoint(save(state, tmp_path / "x.pth"), heads=4)
    assert found.encoder.mlp_dim == hidden


def test_types_become_float32(tmp_path):
    state = {key: tensor.bfloat16() for key, tensor in official_state().items()}
    model = PLMVision.from_files(save(state, tmp_path / "x.pth"), heads=4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in model.projector.parameters())
    assert torch.equal(model.projector.linear_1.bias, state["vision_projector.projector.0.bias"].float())


# --- checkpoints that are none of a PLM -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["PE-Spatial-B16-512", "PE-Core-L14-336", "PE-Lang-L14-448"])
def test_the_name_of_an_encoder_is_refused_before_anything_is_fetched(name):
    with pytest.raises(WeightsError, match=f"{name} is an encoder without the projector.*Perception-LM"):
        PLMVision.from_files(name)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without(official_state(), "vision_projector"), "an encoder, but no projector to a language model"),
        (without(hf_state(), "multi_modal"), "an encoder, but no projector to a language model"),
        (without(official_state(), "vision_"), r"no projector .*first of 2 tensors: tok_embeddings"),
        (without(hf_state(), "vision_tower"), "no Perception Encoder among the 6 tensors"),
        (without(official_state(), "vision_model"), "no Perception Encoder among"),
        ({}, "no projector .*first of 0 tensors: none"),
    ],
)
def test_a_checkpoint_without_either_half_is_named(tmp_path, state, message):
    path = save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}.*{message}"):
        PLMVision.from_files(path, heads=4)


def test_spatial_and_core_checkpoints_are_refused(tmp_path):
    for name in ("PE-Spatial-T16-512", "PE-Core-T16-384"):
        shapes = expected_shapes(VARIANTS[name])
        path = save({key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}, tmp_path / f"{name}.pt")
        with pytest.raises(WeightsError, match=f"{name}.pt holds an encoder, but no projector"):
            PLMVision.from_files(path)
    shapes = expected_shapes(VARIANTS["PE-Core-T16-384"])
    core = {f"vision_model.{key}": torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    projector = {key: tensor for key, tensor in official_state().items() if "projector" in key}
    with pytest.raises(WeightsError, match="the vision tower .* pools its tokens to one, like a PE-Core"):
        PLMVision.from_files(save(core | projector, tmp_path / "both.pt"))


def changed(key, value):
    return {**official_state(), key: value}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            without(official_state(), "projector.2.bias"),
            r"projector does not fit: 1 of 4 keys missing \(linear_2.bias\)",
        ),
        (without(official_state(), "projector.0.weight"), r"1 of 4 keys missing \(linear_1.weight\)"),
        (changed("vision_projector.projector.2.weight", torch.zeros(48, 47)), r"linear_2.weight is \[48, 47\]"),
        (changed("vision_projector.projector.4.weight", torch.zeros(48)), r"1 of 4 keys unexpected \(4.weight"),
        (
            changed("vision_projector.projector.2.bias", torch.full((48,), torch.nan)),
            r"NaN or Inf in 1 tensor \(linear_2.b",
        ),
        (
            {**official_state(), "vision_projector.projector.0.weight": torch.zeros(48, 32)},
            "the projector takes 32 channels and the vision tower has 64",
        ),
        (changed("copy.vision_projector.projector.0.bias", torch.zeros(48)), "2 projectors, under copy.vision_proj"),
        (
            changed("vision_model.positional_embedding", torch.zeros(15, 64)),
            "15 positions .* do not form a square grid",
        ),
        (changed("vision_model.conv1.weight", torch.zeros(64)), r"incomplete \(patches \[64\]"),
        (without(official_state(), "resblocks.0.mlp"), "the vision tower is incomplete"),
        (without(official_state(), "resblocks.1.ln_1.bias"), "does not fit .*1 of 47 keys missing"),
        (changed("vision_model.ln_pre.bias", torch.full((64,), torch.inf)), r"NaN or Inf in 1 tensor \(ln_pre.bias"),
    ],
)
def test_a_damaged_half_is_named(tmp_path, state, message):
    path = save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}.*{message}"):
        PLMVision.from_files(path, heads=4)


def test_heads_that_do_not_divide_are_refused(tmp_path):
    write_official(tmp_path)
    with pytest.raises(UserError, match="width 64 over 7 heads"):
        PLMVision.from_files(tmp_path, heads=7)
    with pytest.raises(UserError, match="heads 0 must be at least 1"):
        PLMVision.from_files(tmp_path, heads=0)


# --- JSON files -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (config(depth=4), "has depth 4, but the tensors have 3"),
        (config(embed_dim=32), "has width 32, but the tensors have 64"),
        (config(img_size=[448, 448]), "has image_size 448, but the tensors have 56"),
        (config(cls_token=False), "has cls_token False, but the tensors have True"),
        (params(layers=4), "has depth 4, but the tensors have 3"),
        (params(cls_token=False), "has cls_token False"),
        (config(num_heads="16"), "vision_config.model_args.num_heads is '16', not a positive integer"),
        (config(num_heads=0), "num_heads is '0', not"),
        (config(ref_feat_shape=[4, 5]), r"ref_feat_shape is '\[4, 5\]', not"),
        ({"model_type": "llava"}, "describes a model of type 'llava', not 'perception_lm'"),
        ({"model": {}}, "does not describe a vision model"),
        ({**config(), "vision_config": 3}, "vision_config. is not an object"),
        ({**config(), "projector_pooling_ratio": 2.5}, "projector_pooling_ratio is '2.5'"),
        ({**params(), "data": {"vision_input_type": "anyres"}}, "vision_input_type is 'anyres', not one of thumb"),
        ([1], "the content is not an object"),
    ],
)
def test_a_json_file_of_something_else_is_named(tmp_path, content, message):
    path = write_json(tmp_path / "said.json", content)
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}.*{message}"):
        PLMVision.from_files(write_hf(tmp_path / "model"), config=path)


def test_a_damaged_json_file_is_named(tmp_path):
    write_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "perc')
    with pytest.raises(UserError, match=r"config.json is damaged: it is not JSON"):
        PLMVision.from_files(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent.json"):
        PLMVision.from_files(tmp_path, config=tmp_path / "absent.json")


# --- shards -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_shards_are_the_single_file_and_the_language_model_is_not_needed(tmp_path, kind):
    index = write_hf_shards(tmp_path / "shards", kind)
    min(index.parent.glob("*-00001-of-*")).unlink()
    ours = PLMVision.from_files(index.parent).state_dict()
    theirs = PLMVision.from_files(write_hf(tmp_path / "one")).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("damage", ["missing", "cut", "swapped"])
def test_a_bad_shard_is_named(tmp_path, number, damage):
    index = write_hf_shards(tmp_path)
    path = min(index.parent.glob(f"*-0000{number}-of-*"))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        shutil.copy(min(index.parent.glob("*-00001-of-*")), path)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        PLMVision.from_files(index)


def test_an_index_without_a_projector_is_named(tmp_path):
    index = write_hf_shards(tmp_path)
    content = json.loads(index.read_text())
    content["weight_map"] = without(content["weight_map"], "multi_modal")
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=f"^{re.escape(str(index))} holds an encoder, but no projector"):
        PLMVision.from_files(index)


def test_the_folder_of_the_hubs_cache_is_read(tmp_path):
    """Whose files are links to blobs that are named by their hashes."""
    snapshot = tmp_path / "snapshots" / "c0ffee"
    write_hf_shards(snapshot)
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(tmp_path / "blobs" / f"sha{number}")
        path.symlink_to(f"../../blobs/sha{number}")
    with torch.no_grad():
        tokens = PLMVision.from_files(snapshot)(golden()["landscape/tiles"])
    assert (tokens - golden()["cls/tokens"]).abs().max() < 2e-5


def test_an_address_of_the_hub_is_answered_with_the_command_that_fetches_it():
    with pytest.raises(WeightsError, match=r"hf download facebook/Perception-LM-1B --local-dir FOLDER"):
        PLMVision.from_files("hf://facebook/Perception-LM-1B")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"in the folder {re.escape(str(tmp_path))}"):
        PLMVision.from_files(tmp_path)


def test_old_names_of_transformers_are_read(tmp_path):
    state = {key.removeprefix("model."): tensor for key, tensor in hf_state().items()}
    assert HF.removeprefix("model.") + "cls_token" in state
    write_json(tmp_path / "config.json", config())
    save_file(state, tmp_path / "model.safetensors")
    with torch.no_grad():
        assert (PLMVision.from_files(tmp_path)(golden()["landscape/tiles"]) - golden()["cls/tokens"]).abs().max() < 2e-5
