"""Kinds of damage to a checkpoint: prediction ends with status 2 and one line, and leaves nothing; or it works."""

import io
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from small_segmenters import save_photos, save_segmenter
from torch import nn

from pe_spatial.commands.shell import run_command
from pe_spatial.common.errors import CheckpointError
from pe_spatial.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, `sound.pth`, and a folder of one photo."""
    folder = tmp_path_factory.mktemp("place")
    save_segmenter(folder / "sound.pth")
    save_photos(folder / "photos", a=(24, 32))
    return folder


def predict(path, folder):
    """Exit status, with the results in `folder / "out"`."""
    arguments = ["--checkpoint", path, "--input", path.parent / "photos", "--output", folder / "out", "--device", "cpu"]
    return run_command("predict", [*map(str, arguments), "--no-pictures"])


# --- damage to bytes: (bytes) -> bytes --------------------------------------------------------------------------------
def flip(data, place, bits=1):
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def part(data, name):
    """Where a part of the archive begins, and its length."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith(name))
    lengths = data[info.header_offset + 26 : info.header_offset + 30]
    return info.header_offset + 30 + sum(np.frombuffer(lengths, "<u2").tolist()), info.file_size


def flip_in(name, offset=5):
    return lambda data: flip(data, part(data, name)[0] + offset)


def zero_a_page(data):
    start, _ = part(data, "data/5")
    return data[:start] + bytes(512) + data[start + 512 :]


def repack(data, change=lambda name, content: content, compression=zipfile.ZIP_STORED):
    """The archive written anew, with checksums that fit what is in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return buffer.getvalue()


def repack_damaged(data):
    return repack(data, lambda name, content: flip(content, 2) if name.endswith("data/5") else content)


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def npz(data):
    np.savez(buffer := io.BytesIO(), a=np.zeros(3))
    return buffer.getvalue()


def torchscript(data):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer := io.BytesIO())
    return buffer.getvalue()


BYTES = {
    "empty": (lambda data: b"", "empty"),
    "half": (lambda data: data[: len(data) // 2], "truncated or corrupt"),
    "without its directory": (lambda data: data[:-30], "truncated or corrupt"),
    "without its beginning": (lambda data: data[100:], "neither a torch nor a safetensors file"),
    "a flipped weight": (flip_in("data/0"), r"1 of its parts have a wrong checksum \(.*data/0\)"),
    "a flipped bit of the last weight": (flip_in("data/9", 0), r"checksum \(.*data/9\)"),
    "a flipped pickle": (flip_in("data.pkl"), r"checksum \(.*data.pkl\)"),
    "a flipped byte order": (flip_in("byteorder", 0), "checksum"),
    "a flipped name of a part": (lambda data: flip(data, data.index(b"/data/5") + 6, 16), "checksum|corrupt"),
    "a lost page": (zero_a_page, "checksum"),
    "doubled": (lambda data: data + data[:-40], "truncated or corrupt"),
    "a web page": (lambda data: b"<!DOCTYPE html><html>", "HTML page"),
    "a pointer of Git LFS": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
    "text": (lambda data: b"hello, this is no checkpoint", "neither a torch"),
    "zeros": (lambda data: bytes(len(data)), "neither a torch"),
    "an archive of arrays": (npz, "a zip archive, not a torch checkpoint .*a.npy"),
    "a TorchScript program": (torchscript, "TorchScript program.*state dict"),
    "a pickled model": (lambda data: saved(nn.Linear(2, 2)), "stores Python objects"),
    "a pickled model of an old torch": (
        lambda data: saved(nn.Linear(2, 2), _use_new_zipfile_serialization=False),
        "stores Python objects",
    ),
    "repacked with damage": (repack_damaged, "have changed since they were saved .*content_hash"),
    "compressed with damage": (
        lambda data: repack(repack_damaged(data), compression=zipfile.ZIP_DEFLATED),
        "have changed since they were saved",
    ),
}


# --- damage to entries: changes the content in place ------------------------------------------------------------------
def without_hash(content):
    del content["pe_spatial"]["content_hash"]


def set_weight(value):
    def change(content):
        without_hash(content)
        weight = content["state_dict"]["backbone.encoder.conv1.weight"] = torch.ones(32, 3, 8, 8)
        weight.view(-1)[7] = value

    return change


def in_weights(**entries):
    def change(content):
        without_hash(content)
        content["state_dict"] |= {key.replace("__", "."): value for key, value in entries.items()}

    return change


def described(**entries):
    return lambda content: content["pe_spatial"].update(entries)


PIPELINE = "val_dataloader.dataset.pipeline"


def configured(key, value):
    """Another value in the config."""

    def change(content):
        node = config = json.loads(content["pe_spatial"]["config"])
        *sections, last = key.split(".")
        for section in sections:
            node = node[section]
        node[last] = value
        content["pe_spatial"]["config"] = json.dumps(config)

    return change


def drop(*keys):
    def change(content):
        *outer, last = keys
        for key in outer:
            content = content[key]
        del content[last]

    return change


def set_entry(key, value):
    return lambda content: content.__setitem__(key, value)


def drop_weight(content):
    without_hash(content)
    content["state_dict"].pop("backbone.encoder.conv1.weight")


CONTENT = {
    "no weights": (drop("state_dict"), "no 'state_dict' among its keys"),
    "weights in a list": (set_entry("state_dict", [1, 2]), "state_dict is a list, not a mapping"),
    "no weights at all": (set_entry("state_dict", None), "state_dict is a NoneType"),
    "a number among the weights": (in_weights(decode_head__x=3.5), r"state_dict\['decode_head.x'\] is a float"),
    "weights with numbers for names": (set_entry("state_dict", {1: torch.ones(1)}), r"state_dict\[1\]"),
    "NaN": (set_weight(float("nan")), r"NaN or Inf in 1 tensor \(state_dict.backbone.encoder.conv1.weight\)"),
    "Inf": (set_weight(float("inf")), "NaN or Inf in 1 tensor"),
    "-Inf": (set_weight(float("-inf")), "NaN or Inf in 1 tensor"),
    "NaN in an average": (
        set_entry("ema_state_dict", {"module.a": torch.tensor(torch.nan)}),
        "ema_state_dict.module.a",
    ),
    "NaN in the optimizer": (set_entry("optimizer", {"state": {0: torch.tensor([torch.nan])}}), "optimizer.state.0"),
    "another hash": (described(content_hash="0" * 64), "have changed since they were saved"),
    "a missing weight": (drop_weight, r"missing \(backbone.encoder.conv1.weight\)"),
    "a weight too many": (in_weights(more__weight=torch.ones(1)), r"unexpected \(more.weight\)"),
    "a weight of another shape": (in_weights(backbone__encoder__conv1__weight=torch.ones(2)), "of another shape"),
    "no description": (drop("pe_spatial"), "contains weights but no config"),
    "a description in a list": (set_entry("pe_spatial", [1]), "contains weights but no config"),
    "no format": (drop("pe_spatial", "format_version"), r"format_version \(None, not a number"),
    "a format in words": (described(format_version="one"), r"format_version \('one'"),
    "a later format": (described(format_version=99), "newer than 1; update pe_spatial"),
    "no config": (drop("pe_spatial", "config"), "contains weights but no config"),
    "a config cut short": (described(config='{"model": {"type"'), "its config is not JSON"),
    "a config as a mapping": (described(config={"model": {}}), "its config is not JSON"),
    "a config of a list": (described(config="[1, 2]"), "not a mapping with a section 'model'"),
    "a config without a model": (described(config="{}"), "not a mapping with a section 'model'"),
    "a model whose type is a number": (described(config='{"model": {"type": 5}}'), "section 'model' that has a type"),
    "a key that mmengine keeps": (configured("filename", "x"), "has the keys filename, which a config cannot have"),
    "imports in a list": (configured("custom_imports", ["x"]), "custom_imports: write {imports:"),
    "imports in a number": (configured("custom_imports", {"imports": 5}), "custom_imports: write {imports:"),
    "a part that nothing can build": (configured("model.decode_head.channels", -3), "cannot be built"),
    "a pipeline of a number": (configured(PIPELINE, 5), "cannot be built"),
    "a step that is no step": (configured(PIPELINE, [{"type": "LoadImage"}, 5]), "cannot be built"),
    "a pipeline that packs nothing": (configured(PIPELINE, [{"type": "LoadImage"}]), "does not give"),
    "a pipeline that needs what no picture has": (
        configured(PIPELINE, [{"type": "LoadImage"}, {"type": "mmseg.LoadAnnotations"}, {"type": "PackSample"}]),
        "cannot be built",
    ),
    "weights of complex numbers": (
        in_weights(backbone__encoder__conv1__weight=torch.ones(32, 3, 8, 8).to(torch.complex64)),
        r"another kind of numbers \(backbone.encoder.conv1.weight is complex64\)",
    ),
    "weights of truth values": (
        in_weights(backbone__encoder__conv1__weight=torch.ones(32, 3, 8, 8).bool()),
        r"another kind of numbers \(backbone.encoder.conv1.weight is bool\)",
    ),
    "sparse weights": (in_weights(a=torch.eye(3).to_sparse()), r"state_dict\['a'\] is sparse_coo"),
    "nested weights": (in_weights(a=torch.nested.nested_tensor([torch.ones(1)])), "is nested"),
    "weights without values": (in_weights(a=torch.ones(3, device="meta")), "is meta"),
    "NaN in 8 bits": (in_weights(a=torch.full((2,), torch.nan).to(torch.float8_e4m3fn)), "NaN or Inf in 1 tensor"),
    "a terabyte of one value": (
        in_weights(a=torch.ones(1).expand(2**38)),
        "state_dict.a would need more",
    ),
    "a name that a terminal obeys": (in_weights(**{"\x1b[31m\nred": torch.ones(1)}), r"\\x1b\[31m\\nred"),
    "a name of 100000 letters": (in_weights(**{"k" * 100_000: torch.ones(1)}), r"unexpected \(k{200}\)"),
    "format 0": (described(format_version=0), r"format_version \(0, not a number of at least 1"),
    "a long class": (described(metainfo={"classes": ["a" * 10**6] * 5}), "more than 1000 letters"),
    **{
        f"the palette {palette}": (described(metainfo={"classes": [*"abcde"], "palette": palette}), "is not 5 colors")
        for palette in ("x", [[1, 2, 3]], [[1, 2]] * 5, [[999, -1, 0]] * 5, [None] * 5, [["a"] * 3] * 5, 7)
    },
    "metainfo in a list": (described(metainfo=["road"]), "metainfo is a list"),
    "too few classes": (
        described(metainfo={"classes": ["road"]}),
        "names do not fit.*num_classes=5.*1 class",
    ),
    "classes by number": (described(metainfo={"classes": [1, 2, 3, 4, 5]}), "not a list of names"),
    "classes in a text": (described(metainfo={"classes": "road"}), "not a list of names"),
}


@pytest.mark.parametrize("damage", [*BYTES, *CONTENT])
def test_a_damaged_checkpoint_is_named_and_nothing_is_written(damage, place, tmp_path, capsys):
    path = place / "damaged.pth"
    path.unlink(missing_ok=True)
    if damage in BYTES:
        change, message = BYTES[damage]
        path.write_bytes(change((place / "sound.pth").read_bytes()))
    else:
        change, message = CONTENT[damage]
        content = dict(load_checkpoint(place / "sound.pth"))
        content = {key: dict(value) for key, value in content.items()}
        change(content)
        torch.save(content, path)
    before = path.read_bytes()
    capsys.readouterr()  # what the making of it said
    assert predict(path, tmp_path) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith(f"error: {path}"), said
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()
    assert path.read_bytes() == before


def wrapped(prefix):
    def change(content):
        content["state_dict"] = {prefix + key: value for key, value in content["state_dict"].items()}
        without_hash(content)

    return change


SOUND = {
    "as it is": lambda content: None,
    "of a distributed model": wrapped("module."),
    "of a compiled model": wrapped("_orig_mod."),
    "of a compiled model that is distributed": wrapped("module._orig_mod."),
    "of before the hash": without_hash,
    "with counters and empty tensors beside the weights": set_entry(
        "optimizer", {"a": torch.ones(2).int(), "b": torch.ones(0)}
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_merely_unusual_predicts(kind, place, tmp_path):
    content = {key: dict(value) for key, value in load_checkpoint(place / "sound.pth").items()}
    SOUND[kind](content)
    (path := place / "unusual.pth").unlink(missing_ok=True)
    torch.save(content, path)
    assert predict(path, tmp_path) == 0
    assert (tmp_path / "out" / "segmentation.json").is_file()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_repacked_checkpoint_is_read(compression, place):
    whole = (place / "sound.pth").read_bytes()
    (path := place / "repacked.pth").unlink(missing_ok=True)
    path.write_bytes(repack(whole, compression=compression))
    ours, theirs = (load_checkpoint(file)["state_dict"] for file in (path, place / "sound.pth"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_every_flipped_byte_of_the_weights_is_found(place):
    """A sample of all bytes of all tensors, and of what surrounds them."""
    whole, rng = (place / "sound.pth").read_bytes(), np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        names = [info.filename.partition("/")[2] for info in archive.infolist() if "/data/" in info.filename]
    assert len(names) > 30
    for name in names:
        start, length = part(whole, name)
        (path := place / "flipped.pth").unlink(missing_ok=True)
        path.write_bytes(flip(whole, start + int(rng.integers(length)), 1 << int(rng.integers(8))))
        with pytest.raises(CheckpointError, match="checksum"):
            load_checkpoint(path)


# --- a folder of a run ------------------------------------------------------------------------------------------------
@pytest.fixture
def run(place, tmp_path):
    """A run with a best and a last checkpoint, beside the photos."""
    for name in ("iter_3.pth", "iter_6.pth", "best_iter_4.pth"):
        shutil.copy(place / "sound.pth", tmp_path / name)
    record = {"file": "best_iter_4.pth", "metric": "miou", "score": 0.5, "iter": 4}
    (tmp_path / "best_checkpoint.json").write_text(json.dumps(record))
    (tmp_path / "last_checkpoint").write_text("iter_6.pth\n")
    shutil.copytree(place / "photos", tmp_path / "photos")
    return tmp_path


def used(run, capsys):
    """The checkpoint that a prediction with the folder takes, and what is said."""
    arguments = ["--checkpoint", run, "--input", run / "photos", "--output", run / "out", "--device", "cpu"]
    status = run_command("predict", [*map(str, arguments), "--no-pictures"])
    said = capsys.readouterr().err.strip()
    model = json.loads((run / "out" / ".pe_spatial" / "run.json").read_text())["model"] if status == 0 else None
    return model, said


def spoil(path):
    path.write_bytes(flip_in("data/3")(path.read_bytes()))


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[1]", b'{"file": 3}', b"{", b"\x00" * 20, b'{"file": "../x.pth"}']
)
def test_a_damaged_record_of_the_best_is_said_and_the_best_is_taken(run, content, capsys):
    (run / "best_checkpoint.json").write_bytes(content)
    model, said = used(run, capsys)
    assert model == "best_iter_4"
    assert (
        said.startswith("warning:") and "best_checkpoint.json is damaged" in said and "best_iter_4.pth is taken" in said
    )


def test_a_damaged_best_is_said_and_the_last_is_taken(run, capsys):
    spoil(run / "best_iter_4.pth")
    model, said = used(run, capsys)
    assert model == "iter_6"
    assert "best_iter_4.pth is damaged" in said and "iter_6.pth is taken" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("pointer", [b"", b"iter_9.pth", b"\xff\xfe\x00", b"../../x", b"iter_6.pth\x00", b"\n\n"])
def test_a_damaged_pointer_is_said_and_the_newest_is_taken(run, pointer, capsys):
    for path in (run / "best_checkpoint.json", run / "best_iter_4.pth"):
        path.unlink()
    (run / "last_checkpoint").write_bytes(pointer)
    model, said = used(run, capsys)
    assert model == "iter_6"
    assert "last_checkpoint" in said and "iter_6.pth is taken" in said


def test_nothing_but_damage_is_one_line(run, capsys):
    for path in run.glob("*.pth"):
        spoil(path)
    model, said = used(run, capsys)
    assert model is None and len(said.splitlines()) == 1
    assert all(name in said for name in ("iter_3.pth", "iter_6.pth", "best_iter_4.pth"))
    assert not (run / "out").exists()
