"""Checkpoint files: all or nothing on disk, no code on loading, clear words for every kind of bad file."""

import contextvars
import io
import json
import os
import pickle
import shutil
import tracemalloc
from collections import namedtuple

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from pe_spatial.common.errors import CheckpointError
from pe_spatial.training import checkpoint as files
from pe_spatial.training.checkpoint import (
    find_best,
    find_last,
    load_checkpoint,
    plain_path,
    read_config,
    read_safely,
    save_checkpoint,
)
from pe_spatial.training.checkpoint_hook import AtomicCheckpointHook, compare_keys, describe


@pytest.fixture
def content():
    return {"state_dict": {"weight": torch.arange(100_000.0)}, "meta": {"iter": 3, "classes": ("a", "b")}}


def test_what_is_saved_is_loaded(tmp_path, content):
    save_checkpoint(content, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert torch.equal(loaded["state_dict"]["weight"], content["state_dict"]["weight"])
    assert loaded["meta"] == content["meta"]
    assert os.listdir(tmp_path) == ["a.pth"]


def marked(path):
    """What the Runner gets for a file that a config names."""
    settings = {"load_from": str(path)}
    read_safely(settings)
    return settings["load_from"]


def test_mmengine_loads_with_our_loader(tmp_path, content):
    save_checkpoint(content, tmp_path / "a.pth")
    assert CheckpointLoader.load_checkpoint(marked(tmp_path / "a.pth"), logger="silent")["meta"] == content["meta"]
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/b.pth: no such checkpoint"):
        CheckpointLoader.load_checkpoint(marked(tmp_path / "b.pth"), logger="silent")


def test_mmengines_own_loader_stays_for_others():
    outside = contextvars.Context()  # of any block of `trusting`
    loader = outside.run(CheckpointLoader._get_checkpoint_loader, "a.pth")
    assert loader is mmengine_checkpoint.load_from_local


def test_every_local_file_of_a_config_is_marked():
    settings = {
        "load_from": "a.pth",
        "model": {
            "neck": [{"init_cfg": {"type": "Pretrained", "checkpoint": "b.pth"}}],
            "init_cfg": {"type": "Pretrained", "checkpoint": "https://host/c.pth"},
            "head": {"type": "Head", "checkpoint": "d.pth"},
        },
    }
    read_safely(settings)
    assert [plain_path(settings["load_from"]), settings["load_from"]] == ["a.pth", "pe_spatial://a.pth"]
    assert settings["model"]["neck"][0]["init_cfg"]["checkpoint"] == "pe_spatial://b.pth"
    assert settings["model"]["init_cfg"]["checkpoint"] == "https://host/c.pth"
    assert settings["model"]["head"]["checkpoint"] == "d.pth"
    before = repr(settings)
    read_safely(settings)
    assert repr(settings) == before
    for empty in ({}, {"load_from": None}):
        read_safely(empty)
        assert not empty.get("load_from")


# --- a failing disk ---------------------------------------------------------------------------------------------------
def test_a_disk_known_to_be_full_is_not_written_to(tmp_path, content, monkeypatch):
    save_checkpoint(content, tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(CheckpointError, match=r"disk is full.*Earlier checkpoints are untouched") as caught:
        save_checkpoint(content, tmp_path / "a.pth")
    assert str(tmp_path / "a.pth") in str(caught.value)
    assert (tmp_path / "a.pth").read_bytes() == before


def test_a_disk_that_fills_up_while_writing(tmp_path, content, small_files):
    save_checkpoint(content, tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    with small_files(200_000), pytest.raises(CheckpointError, match="disk is full"):
        save_checkpoint(content, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pth"]


def test_a_folder_that_cannot_be_written(tmp_path, content):
    with pytest.raises((CheckpointError, FileNotFoundError)):
        save_checkpoint(content, tmp_path / "missing" / "a.pth")


def test_saving_streams(tmp_path):
    """Python allocates far less than the size of the checkpoint; torch's writer hands over the tensors' own memory."""
    content = {"state_dict": {str(i): torch.zeros(1_000_000) for i in range(8)}}  # 32 MB
    tracemalloc.start()
    save_checkpoint(content, tmp_path / "a.pth")
    _, streamed = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    torch.save(content, io.BytesIO())
    _, buffered = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert streamed < 6e6
    assert buffered > 30e6  # this is how it would show


# --- bad files --------------------------------------------------------------------------------------------------------
class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickled_code_is_never_run(tmp_path, write):
    write({"state_dict": Bomb(tmp_path / "executed")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError):
        CheckpointLoader.load_checkpoint(marked(tmp_path / "a.pth"), logger="silent")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_truncated_files_are_named(tmp_path, content, fraction):
    save_checkpoint(content, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(CheckpointError, match=r"a.pth .*truncated" if fraction else "a.pth is empty"):
        load_checkpoint(tmp_path / "a.pth")


def test_foreign_files_are_named(tmp_path):
    (tmp_path / "a.pth").write_text("<!doctype html><html></html>")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        load_checkpoint(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="contains a list"):
        load_checkpoint(tmp_path / "b.pth")


def test_a_checkpoint_describes_itself(tmp_path):
    config = {"model": {"type": "Toy", "size": [1, 2]}, "lr": 1e-5}
    torch.save({"state_dict": {}, "pe_spatial": describe(config, {"classes": ("a", "b")})}, tmp_path / "a.pth")
    loaded = load_checkpoint(tmp_path / "a.pth")
    assert read_config(loaded, "a.pth") == config
    assert loaded["pe_spatial"]["metainfo"] == {"classes": ["a", "b"]}
    loaded["pe_spatial"]["format_version"] = 99
    with pytest.raises(CheckpointError, match="99 is newer"):
        read_config(loaded, "a.pth")
    with pytest.raises(CheckpointError, match=r"no config \(keys: weight\)"):
        read_config({"weight": torch.zeros(1)}, "b.pth")


# --- finding ----------------------------------------------------------------------------------------------------------
def test_the_last_is_the_one_pointed_to_or_the_newest(tmp_path, content):
    assert find_last(tmp_path) is None
    for number in (9, 10, 100):
        save_checkpoint(content, tmp_path / f"iter_{number}.pth")
    assert find_last(tmp_path) == tmp_path / "iter_100.pth"
    (tmp_path / files.LAST_POINTER).write_text("iter_10.pth\n")
    assert find_last(tmp_path) == tmp_path / "iter_10.pth"
    (tmp_path / "iter_10.pth").unlink()
    assert find_last(tmp_path) == tmp_path / "iter_100.pth"


def test_the_best_is_the_one_recorded(tmp_path, content):
    assert find_best(tmp_path) is None
    record = {"file": "best_iter_5.pth", "metric": "ap", "score": 0.5, "iter": 5}
    (tmp_path / files.BEST_POINTER).write_text(json.dumps(record))
    assert find_best(tmp_path) is None
    save_checkpoint(content, tmp_path / "best_iter_5.pth")
    assert find_best(tmp_path) == tmp_path / "best_iter_5.pth"


# --- the hook's rules -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rule", "score", "previous", "better"),
    [
        ("greater", 0.6, 0.5, True),
        ("greater", 0.5, 0.5, False),
        ("less", 0.4, 0.5, True),
        ("less", 0.6, 0.5, False),
        ("greater", float("nan"), 0.5, False),
        ("less", float("nan"), 0.5, False),
        ("greater", float("nan"), None, False),
        ("less", 9.0, None, True),
    ],
)
def test_what_counts_as_better(rule, score, previous, better):
    record = None if previous is None else {"metric": "ap", "score": previous}
    assert AtomicCheckpointHook(best="ap", rule=rule)._improves(score, record) is better


def test_another_metric_starts_anew():
    assert AtomicCheckpointHook(best="ap50")._improves(0.1, {"metric": "ap", "score": 0.5})


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"keep": 0}, {"rule": "max"}])
def test_senseless_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        AtomicCheckpointHook(**arguments)


def test_differences_of_weights_are_told_in_numbers():
    model = nn.Linear(3, 2)
    assert compare_keys(model, model.state_dict()) == ""
    assert compare_keys(model, {f"module.{key}": value for key, value in model.state_dict().items()}) == ""
    report = compare_keys(model, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)})
    assert "1 of 2 keys missing (bias)" in report
    assert "unexpected (extra)" in report
    assert "weight is [2, 4], not [2, 3]" in report
