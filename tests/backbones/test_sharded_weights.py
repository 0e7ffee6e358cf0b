"""An encoder in several files is the encoder in one file, and only its own files are read."""

import re

import pytest
import torch
from safetensors.torch import save_file
from small_plm import hf_state, write_hf_shards, write_shards

import pe_spatial.common.shards as shards
from pe_spatial.backbones import EncoderConfig, PEBackbone
from pe_spatial.backbones.weights import find, load_state_dict
from pe_spatial.commands.shell import run_command
from pe_spatial.common.tensors import WeightsError

ENCODER = EncoderConfig(
    "small", 14, width=64, depth=3, heads=4, mlp_ratio=4, image_size=56, cls_token=True, layer_scale=0.1
)


@pytest.fixture(params=["safetensors", "torch"])
def index(request, tmp_path):
    return write_hf_shards(tmp_path / "sharded", request.param)


@pytest.fixture
def one_file(tmp_path):
    save_file(hf_state(), tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_folder_and_an_index_load_as_one_file(index, one_file):
    expected = PEBackbone(ENCODER, weights=str(one_file)).state_dict()
    assert same(PEBackbone(ENCODER, weights=str(index)).state_dict(), expected)
    assert same(PEBackbone(ENCODER, weights=str(index.parent)).state_dict(), expected)


def test_only_files_with_a_part_of_the_encoder_are_opened(index, monkeypatch):
    opened = []
    read = shards.read_tensor_file
    monkeypatch.setattr(shards, "read_tensor_file", lambda path: opened.append(path.name) or read(path))
    language = min(index.parent.glob("*-00001-of-*"))
    language.write_bytes(b"not even a tensor file")
    _, report = load_state_dict(index, ENCODER)
    assert language.name not in opened
    assert len(opened) == 2
    assert report.files == "2 of 3 files"
    assert "under 'model.vision_tower.timm_model.', 2 of 3 files)" in str(report)
    assert "model.language_model.tok_embeddings.weight" in report.ignored
    assert len(report.ignored) + report.tensors == len(hf_state())


def test_other_ways_to_split_load_too(tmp_path, one_file):
    keys = sorted(hf_state())
    index = write_shards(
        tmp_path / "many",
        hf_state(),
        tuple((key,) for key in keys if not any(k != key and key.startswith(k) for k in keys)),
    )
    assert same(load_state_dict(index, ENCODER)[0], load_state_dict(one_file, ENCODER)[0])


@pytest.mark.parametrize("damage", ["missing", "cut", "swapped"])
def test_a_bad_shard_is_named(index, damage):
    first, second, third = sorted(path for path in index.parent.iterdir() if "-of-" in path.name)
    if damage == "missing":
        third.unlink()
    elif damage == "cut":
        third.write_bytes(third.read_bytes()[:-1000])
    else:
        content = first.read_bytes()
        first.write_bytes(third.read_bytes())
        third.write_bytes(content)
    message = {"missing": "is missing: number 3 of the 3", "cut": "truncated or corrupt", "swapped": "is not the file"}
    with pytest.raises(WeightsError, match=f"{re.escape(str(third))}.*{message[damage]}"):
        PEBackbone(ENCODER, weights=str(index))


def test_nan_in_a_shard_is_found(tmp_path):
    state = hf_state()
    state["model.vision_tower.timm_model.norm_pre.bias"][3] = torch.nan
    index = write_shards(tmp_path, state, (("model.l",), ("model.v", "model.m")))
    with pytest.raises(WeightsError, match=f"^{re.escape(str(index))}: NaN or Inf in 1 tensor .ln_pre.bias"):
        load_state_dict(index, ENCODER)


# --- folders ----------------------------------------------------------------------------------------------------------
def test_of_both_formats_safetensors_are_taken(tmp_path):
    write_hf_shards(tmp_path, "torch")
    assert find(tmp_path) == tmp_path / "pytorch_model.bin.index.json"
    index = write_hf_shards(tmp_path)
    assert find(tmp_path) == index


def test_shards_without_their_index_are_explained(tmp_path):
    write_hf_shards(tmp_path).unlink()
    with pytest.raises(WeightsError, match=r"parts of a checkpoint .*download model\.safetensors\.index\.json into it"):
        find(tmp_path)


def test_another_checkpoint_beside_the_shards_has_to_be_chosen(tmp_path):
    index = write_hf_shards(tmp_path)
    torch.save(hf_state(), tmp_path / "consolidated.pth")
    with pytest.raises(WeightsError, match=r"2 checkpoints in the folder .*consolidated.pth, model.safetensors.index"):
        find(tmp_path)
    assert find(index) == index


def test_shards_are_converted_to_one_file(index, one_file, tmp_path, capsys):
    target = tmp_path / "encoder.safetensors"
    variant = '{"base": "PE-Lang-L14-448", "width": 64, "depth": 3, "heads": 4, "image_size": 56}'
    arguments = ["--input", str(index.parent), "--output", str(target), "--to", "official", "--variant", variant]
    assert run_command("convert", arguments) == 0, capsys.readouterr().err
    assert same(load_state_dict(target, ENCODER)[0], load_state_dict(one_file, ENCODER)[0])
