"""Damage in the folder of a run, and NaN at every door: `--resume` goes on from what is sound and says what is not."""

import itertools
import json
import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from toy_task import snapshot

from pe_spatial.backbones import sam2_model
from pe_spatial.backbones.weights.loading import check_values
from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError, UserError
from pe_spatial.common.integrity import not_finite, once_per_file
from pe_spatial.common.reading import read_json
from pe_spatial.common.tensors import WeightsError, read_tensor_file, write_tensor_file
from pe_spatial.training.checkpoint import find_resumable, load_checkpoint, read_best, read_safely
from pe_spatial.training.checkpoint_hook import AtomicCheckpointHook
from pe_spatial.training.progress import read_metrics

_names = itertools.count()


def resume(run, *options, iterations=7):
    """Exit status of going on."""
    changes = [f"train_cfg.max_iters={iterations}", f"param_scheduler.1.end={iterations}"]
    name = f"experiment_name=damaged{next(_names)}"
    return run_command("train", ["--resume", str(run), "--device", "cpu", *changes, *options, name])


def replace(path, change):
    """Change the content of a checkpoint; the old file is memory-mapped."""
    content = load_checkpoint(path)
    content["pe_spatial"] = {key: value for key, value in content["pe_spatial"].items() if key != "content_hash"}
    change(content)
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def flip(path, part=b"/data/0"):
    data = bytearray(path.read_bytes())
    place = data.index(part) + len(part) + 100
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


def cut(path):
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])


def nan(path):
    replace(path, lambda content: content["state_dict"]["head.bias"].fill_(torch.nan))


def nan_in_optimizer(path):
    replace(path, lambda content: content["optimizer"]["state"][0]["exp_avg"].fill_(torch.nan))


DAMAGED = {
    "flipped": (flip, "checksum"),
    "cut": (cut, "truncated or corrupt"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "NaN": (nan, "head.bias"),
    "NaN in the optimizer": (nan_in_optimizer, "optimizer.state.0.exp_avg"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_checkpoint_is_passed_over_and_named(run, damage):
    spoil, reason = DAMAGED[damage]
    spoil(run / "iter_6.pth")
    found, problems = find_resumable(run)
    assert found == run / "iter_4.pth"
    assert len(problems) == 1 and "iter_6.pth" in problems[0] and reason in problems[0]


def test_a_run_goes_on_from_its_newest_sound_checkpoint(run, capfd):
    flip(run / "iter_6.pth")
    assert resume(run, "default_hooks.pictures=null") == 0
    out, err = capfd.readouterr()
    said = next(line for line in (out + err).splitlines() if "passed over" in line)
    assert "iter_6.pth" in said and "checksum" in said
    assert json.loads((run / "result.json").read_text())["resumed_from_iteration"] == 4
    assert find_resumable(run) == (run / "iter_7.pth", [])


@pytest.mark.parametrize("option", ["--resume", "--resume-or-start"])
def test_where_nothing_is_sound_nothing_changes(run, capfd, option):
    for path in run.glob("*.pth"):
        flip(path)
    before = snapshot(run)
    where = ["--resume", str(run)] if option == "--resume" else ["--output", str(run), "--resume-or-start"]
    config = [] if option == "--resume" else ["--config", str(run / "config.yaml")]
    assert run_command("train", [*config, *where, f"experiment_name=damaged{next(_names)}"]) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "no complete checkpoint" in said and "iter_4.pth" in said and "iter_6.pth" in said
    assert snapshot(run) == before


def test_a_new_start_does_not_take_a_folder_of_damaged_checkpoints(run, capfd):
    for path in run.glob("*.pth"):
        flip(path)
    before = snapshot(run)
    arguments = ["--config", str(run / "config.yaml"), "--output", str(run), f"experiment_name=damaged{next(_names)}"]
    assert run_command("train", arguments) == 2
    assert "contains a run" in capfd.readouterr().err
    assert snapshot(run) == before


ENTRIES = {
    "no optimizer": (lambda content: content.pop("optimizer"), "contains only weights"),
    "an optimizer in a list": (lambda content: content.update(optimizer=[1]), "optimizer missing or of a wrong type"),
    "no meta": (lambda content: content.pop("meta"), "meta missing"),
    "meta in a list": (lambda content: content.update(meta=[]), "meta missing"),
    "iterations in words": (lambda content: content["meta"].update(iter="six"), "meta.iter"),
    "no epoch": (lambda content: content["meta"].pop("epoch"), "meta.epoch"),
    "no seed": (lambda content: content["meta"].pop("seed"), "meta.seed"),
    "no history": (lambda content: content.pop("message_hub"), "message_hub missing"),
    "iterations below zero": (lambda content: content["meta"].update(iter=-1), "meta.iter"),
    "a hub that holds a list": (
        lambda content: content["message_hub"].update(log_scalars=[1]),
        "message_hub.log_scalars",
    ),
    "a history of words": (
        lambda content: content["pe_spatial"].update(log_history={"train/loss": ["a"]}),
        "pe_spatial.log_history.train/loss",
    ),
    "a rate in words": (
        lambda content: content["optimizer"]["param_groups"][0].update(lr="abc"),
        "optimizer.param_groups.0.lr is 'abc'",
    ),
    "a switch that is a text": (
        lambda content: content["optimizer"]["param_groups"][1].update(fused="abc"),
        "optimizer.param_groups.1.fused is 'abc'",
    ),
    "no betas": (
        lambda content: content["optimizer"]["param_groups"][0].pop("betas"),
        "param_groups.0.betas is missing",
    ),
    "a group too few": (lambda content: content["optimizer"]["param_groups"].pop(), "param_groups is not a list of"),
    "other parameters": (
        lambda content: content["optimizer"]["param_groups"][0]["params"].reverse(),
        "param_groups.0.params are not the",
    ),
    "a mean of another shape": (
        lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.ones(2)),
        "optimizer.state.0.exp_avg is not a tensor of the shape",
    ),
    "a step in words": (lambda content: content["optimizer"]["state"][1].update(step="x"), "state.1.step is 'x'"),
    "a state of nothing": (lambda content: content["optimizer"]["state"].update({99: {}}), "state.99 belongs to no"),
    "a state without its step": (lambda content: content["optimizer"]["state"][1].pop("step"), "state.1 has other"),
    "a schedule in a list": (
        lambda content: content["param_schedulers"].__setitem__(0, [1]),
        "param_schedulers.0 is a list",
    ),
    "a schedule without its place": (
        lambda content: content["param_schedulers"][1].pop("last_step"),
        "param_schedulers.1.last_step is missing",
    ),
    "a schedule that begins in words": (
        lambda content: content["param_schedulers"][1].update(begin="abc"),
        "param_schedulers.1.begin is 'abc'",
    ),
    "a model without a type": (
        lambda content: content["pe_spatial"].update(config='{"model": {"type": 3}}'),
        "not a mapping with a section 'model' that has a type",
    ),
    "a config cut short": (lambda content: content["pe_spatial"].update(config="{"), "config is not JSON"),
    "no description": (lambda content: content.pop("pe_spatial"), "no config"),
}  # what a training that has begun would end at, or take without a word


@pytest.mark.parametrize("damage", ENTRIES)
def test_a_checkpoint_that_cannot_be_gone_on_from_is_named(run, capfd, damage):
    change, message = ENTRIES[damage]
    replace(run / "iter_6.pth", change)
    before = snapshot(run)
    assert resume(run) == 2
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "iter_6.pth" in said and message in said
    assert snapshot(run) == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\xfd", b"iter_99.pth\n", b"a\x00b", b"{}", b"iter_6.pth\n" * 3])
def test_a_damaged_pointer_costs_nothing(run, content):
    (run / "last_checkpoint").write_bytes(content)
    found, problems = find_resumable(run)
    assert found == run / "iter_6.pth"
    assert len(problems) == 1 and str(run / "last_checkpoint") in problems[0]


def test_a_directory_or_a_lost_file_in_the_place_of_a_checkpoint(run):
    (run / "iter_6.pth").unlink()
    (run / "iter_6.pth").mkdir()
    found, problems = find_resumable(run)
    assert found == run / "iter_4.pth" and "which is not there" in problems[0]


def test_broken_lines_of_the_metrics_are_counted_and_the_others_kept(run):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    broken = [b"[1]\n", b'{"mode": "train"}\n', b'{"mode": "val", "iter": "x"}\n', b"\xff\n", b"\x00\x00\n"]
    (run / "metrics.jsonl").write_bytes(b"".join([lines[0], *broken, *lines[1:], b'{"mode": "tr']))
    with pytest.warns(UserWarning, match=r"metrics.jsonl is damaged: 5 lines are left out \(line 2, 3, 4, …\)"):
        records = read_metrics(run)
    assert records == [json.loads(line) for line in lines]


BEST = {"file": "best_iter_3.pth", "metric": "toy/score", "score": 0.5, "iter": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"{", "not JSON"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"{\x00}", "zero bytes"),
        (b"[1]", "contains a list"),
        (b"null", "contains a NoneType"),
        (b"[" * 100_000, "not JSON"),
        (b'{"file": "a"}', "field 'metric' is missing"),
        (json.dumps({**BEST, "score": "high"}).encode(), "field 'score' is 'high', not of the kind float"),
        (json.dumps({**BEST, "score": True}).encode(), "field 'score' is 'True'"),
        (json.dumps({**BEST, "iter": None}).encode(), "field 'iter' is 'None'"),
    ],
)
def test_a_damaged_record_says_what_it_is(run, content, message):
    (run / "best_checkpoint.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_best(run)
    assert str(caught.value).startswith(f"{run / 'best_checkpoint.json'} is damaged")


def test_a_byte_order_mark_and_more_fields_are_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({**BEST, "more": 1, "score": 1}).encode())
    assert read_json(tmp_path / "a.json", {"score": float, "file": str})["more"] == 1


def test_the_best_score_is_that_of_the_metrics_where_its_record_is_damaged(run):
    scores = [record["toy/score"] for record in read_metrics(run) if record["mode"] == "val"]
    (run / "best_checkpoint.json").write_text("{")
    said = []
    runner = SimpleNamespace(work_dir=str(run), iter=9, logger=SimpleNamespace(warning=said.append))
    for rule, choose in (("greater", max), ("less", min)):
        assert AtomicCheckpointHook(best="toy/score", rule=rule)._best_so_far(runner)["score"] == choose(scores)
    assert "best_checkpoint.json is damaged" in said[0] and "metrics.jsonl" in said[0]


# --- NaN and Inf ------------------------------------------------------------------------------------------------------
def load_from(path):
    settings = {"load_from": str(path)}
    read_safely(settings)
    CheckpointLoader.load_checkpoint(settings["load_from"], logger="silent")


def pretrained(path):
    settings = {"part": {"type": "Pretrained", "checkpoint": str(path)}}
    read_safely(settings)
    CheckpointLoader.load_checkpoint(settings["part"]["checkpoint"], logger="silent")


DOORS = {
    "a flat file": (load_checkpoint, lambda tensors: tensors),
    "load_from": (load_from, lambda tensors: {"state_dict": tensors}),
    "Pretrained": (pretrained, lambda tensors: tensors),
    "an average": (load_checkpoint, lambda tensors: {"state_dict": {}, "ema_state_dict": tensors}),
    "weights of an encoder": (lambda path: check_values(path, read_tensor_file(path)), lambda tensors: tensors),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_nan_is_refused_at_every_door_with_the_name_of_its_tensor(door, dtype, tmp_path):
    read, wrap = DOORS[door]
    tensors = {"sound.weight": torch.ones(4, dtype=dtype), "broken.weight": torch.ones(2, 3, dtype=dtype)}
    torch.save(wrap(tensors), tmp_path / "sound.pth")
    read(tmp_path / "sound.pth")
    tensors["broken.weight"][1, 2] = torch.nan
    torch.save(wrap(tensors), tmp_path / "a.pth")
    with pytest.raises((CheckpointError, WeightsError), match="NaN or Inf in 1 tensor .*broken.weight") as caught:
        read(tmp_path / "a.pth")
    assert "sound.weight" not in str(caught.value)


def test_sam2_refuses_nan(tmp_path):
    pytest.importorskip("sam2")
    torch.save({"model": {"a": torch.tensor([torch.inf])}}, tmp_path / "sam.pt")
    with pytest.raises(WeightsError, match=r"NaN or Inf in 1 tensor \(a\)"):
        sam2_model.build_sam2("tiny", tmp_path / "sam.pt", 64)


def test_integers_empty_and_quantized_tensors_are_finite():
    tensors = {
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "flags": torch.ones(2).bool(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": torch.eye(2).to_sparse(),
        "tiny": torch.ones(2).to(torch.float8_e4m3fn),
        "complex": torch.ones(2, dtype=torch.complex64),
        "text": "nan",
    }
    assert list(not_finite(tensors)) == []
    assert list(not_finite({"a": [torch.ones(1), {"b": torch.tensor(complex(1, float("nan")))}]})) == ["a.1.b"]


# --- safetensors ------------------------------------------------------------------------------------------------------
def test_every_flipped_byte_of_a_safetensors_file_is_found(tmp_path):
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "c": torch.arange(4)}
    write_tensor_file(tensors, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole)):
        (path := tmp_path / "b.safetensors").unlink(missing_ok=True)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(WeightsError, match="have changed since they were saved"):
            read_tensor_file(path)


def test_equal_tensors_make_equal_files(tmp_path):
    """Whatever order the library puts the metadata in."""
    tensors = {"é": torch.ones(3), "b": torch.zeros(2)}
    for number in range(8):
        write_tensor_file(tensors, tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert torch.equal(read_tensor_file(tmp_path / "0.safetensors")["é"], torch.ones(3))


# --- the cost ---------------------------------------------------------------------------------------------------------
def test_a_file_is_checked_once_until_it_changes(tmp_path):
    path, calls = tmp_path / "a", []
    path.write_text("a")
    os.utime(path, (1, 1))
    for _ in range(3):
        once_per_file(path, "test", lambda: calls.append(1))
    assert len(calls) == 1
    os.utime(path, (2, 2))
    once_per_file(path, "test", lambda: calls.append(1))
    os.utime(path)  # now: it may be written again within the same tick of the clock
    for _ in range(2):
        once_per_file(path, "test", lambda: calls.append(1))
    assert len(calls) == 4


def test_a_file_that_is_replaced_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(3)}, path)
    load = torch.load

    def replaced(*arguments, **options):
        content = load(*arguments, **options)
        torch.save({"a": torch.zeros(300)}, tmp_path / "b.pt")
        (tmp_path / "b.pt").replace(path)
        return content

    monkeypatch.setattr(torch, "load", replaced)
    with pytest.raises(WeightsError, match="changed while it was read"):
        read_tensor_file(path)
