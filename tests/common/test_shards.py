"""Tensors in several files: what the index says is what is read, and nothing else is opened."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import save_file

import pe_spatial.common.shards as module
from pe_spatial.common.errors import UserError
from pe_spatial.common.shards import ShardIndex, is_index, looks_like_shard
from pe_spatial.common.tensors import WeightsError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def index(tmp_path):
    """(path, the tensors): `a` and `b` in the first file, `c` in the second."""
    tensors = {name: torch.arange(n * 3.0).reshape(n, 3) for n, name in enumerate("abc", 1)}
    save_file({name: tensors[name] for name in "ab"}, tmp_path / FIRST)
    save_file({"c": tensors["c"]}, tmp_path / SECOND)
    return write_index(tmp_path, {"a": FIRST, "b": FIRST, "c": SECOND}), tensors


def write_index(folder, names):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return path


def test_every_tensor_comes_from_its_file_in_the_order_that_is_asked(index):
    path, tensors = index
    found = ShardIndex(path).read("cab")
    assert list(found) == ["c", "a", "b"]
    assert all(torch.equal(found[name], tensors[name]) for name in "abc")
    assert ShardIndex(path).read([]) == {}


def test_a_file_without_a_wanted_tensor_is_not_opened(index, monkeypatch):
    path, _ = index
    opened = []
    monkeypatch.setattr(
        module, "read_tensor_file", lambda file, read=module.read_tensor_file: opened.append(file.name) or read(file)
    )
    ShardIndex(path).read("a")
    assert opened == [FIRST]
    (path.parent / SECOND).unlink()  # nor needed
    ShardIndex(path).read("ab")
    assert opened == [FIRST, FIRST]


def test_names():
    assert is_index(ShardPath("model.safetensors.index.json"))
    assert is_index(ShardPath("pytorch_model.bin.index.json"))
    assert not is_index(ShardPath("config.json"))
    assert looks_like_shard(ShardPath(FIRST)) and looks_like_shard(ShardPath("pytorch_model-00001-of-00007.bin"))
    assert not looks_like_shard(ShardPath("model.safetensors"))
    assert not looks_like_shard(ShardPath("model-00001-of-00001.safetensors"))  # it is whole


class ShardPath:
    """A path of which only the name matters."""

    def __init__(self, name):
        self.name = name


def test_a_missing_file_is_named_with_what_it_holds(index):
    path, _ = index
    (path.parent / SECOND).unlink()
    message = f"{path.parent / SECOND} is missing: number 2 of the 2 files of {path.name}, it holds 1 tensors (c)"
    with pytest.raises(WeightsError, match=re.escape(message)):
        ShardIndex(path).read("abc")


def test_a_cut_file_is_named(index):
    path, _ = index
    file = path.parent / FIRST
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WeightsError, match=f"^{re.escape(str(file))} .*truncated or corrupt"):
        ShardIndex(path).read("ab")


def test_swapped_files_are_named(index):
    path, _ = index
    first, second = path.parent / FIRST, path.parent / SECOND
    first.rename(path.parent / "x")
    second.rename(first)
    (path.parent / "x").rename(second)
    with pytest.raises(
        WeightsError, match=rf"^{re.escape(str(first))} is not the file .*2 of the 2 .*\(a, b\).*swapped"
    ):
        ShardIndex(path).read("a")


def test_a_link_of_the_hubs_cache_is_followed(index, tmp_path):
    path, tensors = index
    (tmp_path / "blobs").mkdir()
    (path.parent / FIRST).rename(tmp_path / "blobs/sha")
    (path.parent / FIRST).symlink_to("blobs/sha")
    assert torch.equal(ShardIndex(path).read("a")["a"], tensors["a"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_at_once(index):
    path, _ = index
    file = path.parent / SECOND
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="it is a pipe"):
        ShardIndex(path).read("c")
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        ShardIndex(path).read("c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged: it is empty"),
        ('{"weight_map": {"a": "x', "is damaged: it is not JSON"),
        ("[1]", "contains a list, not an object"),
        ("{}", "'weight_map' is missing"),
        ('{"weight_map": ["a"]}', "'weight_map' is .*not of the kind dict"),
        ('{"weight_map": {}}', "lists no tensors"),
    ],
)
def test_a_bad_index_is_named(tmp_path, text, message):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(WeightsError, match=f"^{re.escape(str(path))}.*{message}.*download"):
        ShardIndex(path)
