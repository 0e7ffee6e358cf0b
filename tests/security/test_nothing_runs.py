"""Nothing that a stranger's config, checkpoint or data names is imported, called, unpickled or fetched."""

import contextvars
import json
import re
import shutil
import sys
import tarfile
import time
from contextlib import suppress
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import huggingface_hub
import mmengine.registry
import numpy as np
import pytest
import torch
import toy_task
from mmengine.config import Config
from mmengine.fileio import get as get_file
from mmengine.fileio import load as mmengine_load
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from routes import PAYLOAD, Pickled, routes, write_pickle
from small_segmenters import save_photos, settings

import pe_spatial.segmentation  # noqa: F401 - mmseg prints when it is first imported
from pe_spatial import PEBackbone, PLMVision
from pe_spatial.backbones import TimmBackbone
from pe_spatial.backbones.text import PECore
from pe_spatial.commands.options import CommandParser
from pe_spatial.commands.shell import COMMANDS, run_command
from pe_spatial.common.errors import UserError
from pe_spatial.common.tensors import write_tensor_file
from pe_spatial.common.trust import is_trusted, trusting
from pe_spatial.depth.loading import LoadDepthMap
from pe_spatial.features import FeatureExtractor, open_features
from pe_spatial.inference.predictor import Predictor
from pe_spatial.training.checkpoint import load_checkpoint, save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import config_text, load_config
from pe_spatial.training.launch import train
from pe_spatial.training.published import write_published
from pe_spatial.training.trust import resolve, violations

BASE = "demo/mask_rcnn_tiny_shapes.yaml"
NAMES = [*routes("canary", Path("folder"))]


@pytest.fixture(scope="module")
def base():
    return load_config(BASE).to_dict()


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A file that exists if anything of the payload ran."""
    (tmp_path / "payload.py").write_text(PAYLOAD)
    path = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_pickle(tmp_path / "evil.pkl", path)
    yield path
    sys.modules.pop("payload", None)


def changed(config, key, value):
    """A copy of a config with one entry changed; sections that are missing are made."""
    config = deepcopy(config)
    node = config
    *sections, last = key.split(".")
    for part in sections:
        if isinstance(node, dict) and not isinstance(node.get(part), dict | list):
            node[part] = {}
        node = node[int(part) if isinstance(node, list) else part]
    node[int(last) if isinstance(node, list) else last] = value
    return config


def write_checkpoint(path, config):
    save_checkpoint({"state_dict": {"x": torch.zeros(1)}, "pe_spatial": describe(config, {"classes": ["a"]})}, path)
    return path


def refused(capsys, canary, *arguments):
    """The lines of the error of a command that must refuse without running or writing anything."""
    before = sorted(canary.parent.rglob("*"))
    arguments = [str(argument) for argument in arguments]
    assert run_command(arguments[0], arguments[1:]) == 2
    assert not canary.exists()
    assert "payload" not in sys.modules
    assert sorted(canary.parent.rglob("*")) == before
    return capsys.readouterr().err.strip().splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_runs_nothing(name, base, canary, tmp_path, capsys):
    key, value = routes(canary, tmp_path)[name]
    file = write_checkpoint(tmp_path / "stranger.pth", changed(base, key, value))
    (tmp_path / "in").mkdir()
    paths = ("--checkpoint", file, "--input", tmp_path / "in", "--output", tmp_path / "out")
    (line,) = refused(capsys, canary, "predict", *paths)
    found = f"the model {value}" if name == "a name without a dot" else key
    assert line.startswith(f"error: {file}: {found}")
    with pytest.raises(UserError):
        contextvars.Context().run(Predictor, file, device="cpu")
    assert not canary.exists()


def write_shared(folder, config):
    folder.mkdir()
    described = describe(config, {"classes": ["a"]})
    write_published(folder, {"x": torch.zeros(1)}, described, "A page.\n")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_model_runs_nothing(name, base, canary, tmp_path, monkeypatch):
    key, value = routes(canary, tmp_path)[name]
    folder = write_shared(tmp_path / "stranger", changed(base, key, value))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **_: str(folder))
    with pytest.raises(UserError):
        contextvars.Context().run(Predictor, "hf://stranger/model", device="cpu")
    assert not canary.exists()
    assert "payload" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch {canary}']",
        "model: !!python/name:payload.function",
        "_base_: [other.yaml]",  # no other file is read
        "model: {type: '{{$CANARY:x}}'}",  # nor a variable of the environment
    ],
)
def test_the_config_of_a_shared_model_is_plain(text, base, canary, tmp_path):
    folder = write_shared(tmp_path / "stranger", base)
    (folder / "other.yaml").write_text(config_text(Config(base)))
    (folder / "config.yaml").write_text(text.replace("{canary}", str(canary)))
    with pytest.raises(UserError) as caught:
        contextvars.Context().run(Predictor, folder, device="cpu")
    assert not canary.exists() and str(canary) not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_yaml_file_runs_nothing(name, base, canary, tmp_path, capsys):
    key, value = routes(canary, tmp_path)[name]
    file = tmp_path / "stranger.yaml"
    file.write_text(config_text(Config(changed(base, key, value))))
    lines = refused(capsys, canary, "train", "--config", file, "--output", tmp_path / "out", "--device", "cpu")
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: {file}:")
    assert f": {key}" in lines[0]


@pytest.mark.parametrize(
    ("build", "section"),
    [
        ("MODELS", {"type": "payload.Thing"}),
        ("MODELS", {"type": "payload"}),
        ("MODELS", {"type": "mmseg.payload.Thing"}),
        ("TRANSFORMS", {"type": "LoadImage", "_scope_": "payload"}),
        ("MODELS", {"type": "subprocess.getoutput", "cmd": "touch $CANARY"}),
    ],
)
def test_the_routes_are_real(build, section, canary):
    """Mmengine by itself obeys them; within `trusting` it does not, whatever the config looked like."""
    registry = getattr(mmengine.registry, build)
    (canary.parent / "payload").mkdir()
    (canary.parent / "payload" / "__init__.py").write_text(PAYLOAD)

    def outside():
        with suppress(TypeError, KeyError):
            registry.build(dict(section))

    with trusting(), suppress(RuntimeError, KeyError):
        registry.build(dict(section))
    assert not canary.exists()
    contextvars.Context().run(outside)
    assert canary.exists()


# --- other ways in ----------------------------------------------------------------------------------------------------
WAYS = {
    "train": ("train", "--config", "{yaml}", "--output", "{out}"),
    "train with an override": ("train", "--config", "{sound}", "--output", "{out}", "model.type=payload.Thing"),
    "a resume": ("train", "--resume", "{run}"),
    "a run": ("eval", "{run}"),
    "a run of a file": ("eval", "{pth}"),
    "a config for a file": ("eval", "{pth}", "--config", "{yaml}"),
    "--eval-only": ("train", "--eval-only", "--config", "{yaml}", "--checkpoint", "{pth}"),
    "predict": ("predict", "--checkpoint", "{pth}", "--input", "{folder}", "--output", "{out}"),
    "one of several models": ("predict", "--checkpoint", "a={pth}", "--input", "{folder}", "--output", "{out}"),
    "features": ("features", "--checkpoint", "{pth}", "--input", "{folder}", "--output", "{out}"),
    "the encoder of a run": ("train", "depth", "--data", "{folder}", "--encoder-from", "{pth}", "--output", "{out}"),
    "track": ("track", "--config", "{yaml}", "--output", "{out}"),
    "check": ("check", "--config", "{yaml}", "--output", "{out}"),
    "visualize": ("visualize", "--checkpoint", "{pth}", "--input", "{folder}", "--output", "{out}"),
    "score": ("score", "--config", "{yaml}", "--input", "{folder}"),
    "configs": ("configs", "show", "{yaml}"),
    "convert": ("convert", "--input", "{d2}", "--output", "{out}.pth", "--to", "pe_spatial", "--config", "{yaml}"),
    "benchmark": ("benchmark", "segmentation", "--config", "{yaml}", "--input", "{folder}", "--device", "cpu"),
}
CLAIMS = [("model.type", "payload.Thing"), ("custom_imports", {"imports": ["payload"]}), ("default_scope", "payload")]


@pytest.fixture
def files(base, canary, tmp_path):
    """The files that a stranger may send, by a config."""
    run = tmp_path / "run"
    run.mkdir()
    save_photos(tmp_path / "photos", a=(16, 16))
    keys = ("proposal_generator.rpn_head.conv.weight", "backbone.net.patch_embed.proj.weight")
    write_tensor_file({key: torch.zeros(1, 1, 1, 1) for key in keys}, tmp_path / "d2.pth", "model")

    def write(config):
        (tmp_path / "stranger.yaml").write_text(config_text(Config(config)))
        (run / "config.yaml").write_text(config_text(Config(config)))
        write_checkpoint(run / "iter_1.pth", config)
        return {
            "yaml": tmp_path / "stranger.yaml",
            "pth": write_checkpoint(tmp_path / "stranger.pth", config),
            "run": run,
            "sound": BASE,
            "folder": tmp_path / "photos",
            "d2": tmp_path / "d2.pth",
            "out": tmp_path / "out",
        }

    return write


@pytest.mark.parametrize("claim", CLAIMS, ids=[key for key, _ in CLAIMS])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_is_held_to_the_rules(way, claim, base, files, canary, capsys):
    if way == "train with an override" and claim[0] != "model.type":
        pytest.skip("it has its own claim")
    given = files(changed(base, *claim))
    (line,) = refused(capsys, canary, *(word.format(**given) for word in WAYS[way]))
    assert claim[0] in line
    assert '--allow-import payload, or trust=["payload"] in Python' in line


def test_every_command_that_reads_a_config_takes_the_option():
    for name in COMMANDS:
        module = import_module(f"pe_spatial.commands.{re.sub('[- ]', '_', name)}")
        functions = getattr(module, "SUBCOMMANDS", {name: getattr(module, "add_arguments", None)})
        for subcommand, add_arguments in functions.items():
            parser = CommandParser(subcommand, "")
            add_arguments(parser)
            known = parser._option_string_actions
            reads = {"--config", "--checkpoint"} & known.keys() or any(
                a.dest in ("overrides", "run") for a in parser._actions
            )
            assert ("--allow-import" in known) == bool(reads), (name, subcommand)


# --- files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("<<: {_base_: payload.py}\n", "payload.py"),
        ("model:\n  <<: {_base_: payload.py}\n", "model._base_"),
        ("_x: &x {_base_: payload.py}\nmodel: {<<: *x}\n", "model._base_"),
        ("_base_: payload.py\n", "payload.py"),
        ("model: !!python/object/apply:os.system ['touch canary']\n", ":1: tag"),
        ("model: !!python/name:payload.Thing\n", ":1: tag"),
        ("model: !!python/module:payload\n", ":1: tag"),
        ("_x: payload.Thing\nmodel: {type: $_x}\n", ":2: model.type"),
        ("model: {type: '{{$KIND:payload.Thing}}'}\n", ":1: model.type"),
        ("&a model: &b {type: payload.Thing}\n", ":1: model.type"),
    ],
)
def test_yaml_has_no_other_way_to_run_code(text, named, canary, capsys):
    file = canary.parent / "stranger.yaml"
    file.write_text(text)
    (line,) = refused(capsys, canary, "train", "--config", file, "--output", "out", "--device", "cpu")
    assert f"{file}" in line
    assert named in line


def pickled(path, canary, legacy):
    torch.save({"state_dict": Pickled(canary)}, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickles_are_not_obeyed(legacy, canary, capsys):
    file = pickled(canary.parent / "stranger.pth", canary, legacy)
    save_photos(canary.parent / "photos", a=(16, 16))
    (line,) = refused(capsys, canary, "predict", "--checkpoint", file, "--input", "photos", "--output", "out")
    assert f"{file} stores Python objects" in line
    assert "refused" in line
    torch.load(file, weights_only=False)
    assert canary.exists()  # which is what it would have done


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_weights_with_a_pickle_are_not_obeyed(legacy, canary, tmp_path, capsys):
    """Of encoders of timm, of a whole PE-Core, of an upsampler, and as the options of commands take them."""
    pytest.importorskip("timm")
    file = pickled(tmp_path / "stranger.pth", canary, legacy)
    learned = {"type": "learned", "stride": 8, "weights": str(file)}
    for build in (
        lambda: TimmBackbone("test_vit", weights=str(file)),
        lambda: MODELS.build({"type": "TimmBackbone", "model": "test_vit", "weights": str(file), "frozen": True}),
        lambda: PECore("PE-Core-S16-384", weights=str(file)),
        lambda: TimmBackbone("test_vit", upsampling=learned),
    ):
        with pytest.raises(UserError, match=f"{file} stores Python objects"):
            build()
    save_photos(tmp_path / "photos", a=(16, 16))
    for command in ("features", "visualize"):
        given = ("--encoder", "test_vit", "--weights", file, "--input", "photos", "--output", "out")
        (line,) = refused(capsys, canary, command, *given)
        assert f"{file} stores Python objects" in line


def test_a_section_of_an_encoder_imports_nothing(canary, tmp_path, capsys):
    save_photos(tmp_path / "photos", a=(16, 16))
    for section in ("{type: payload.Thing}", "{type: PEBackbone, variant: !!python/name:payload.Thing}"):
        for command in ("features", "visualize"):
            refused(capsys, canary, command, "--encoder", section, "--input", "photos", "--output", "out")
    with pytest.raises(UserError, match=r"payload\.Thing"):
        FeatureExtractor({"type": "payload.Thing"})
    assert not canary.exists()


def test_features_hold_no_objects(canary, tmp_path):
    """A list of features of a stranger, with files of arrays that NumPy would unpickle."""
    np.save(tmp_path / "a.npy", np.array([Pickled(canary)], dtype=object), allow_pickle=True)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.npy", "a.layer_1.npy")
    for kind in ("npy", "tar"):
        entry = {"file_name": "a.png", "features": f"a.{kind}", "key": "a"}
        listed = {"format_version": 1, "format": kind, "layers": ["layer_1"], "rule": {}, "features": [entry]}
        (tmp_path / "features.json").write_text(json.dumps(listed))
        with pytest.raises(UserError, match="the features of a.png cannot be read"):
            open_features(tmp_path)["a.png"]
    assert not canary.exists()


def test_mmengines_readers_unpickle_nothing(canary):
    """The weights of a part that makes their path itself, and files of class weights in a loss of mmseg."""
    file = pickled(canary.parent / "stranger.pth", canary, legacy=False)
    with trusting():
        with pytest.raises(UserError, match=f"{file} stores Python objects"):
            CheckpointLoader.load_checkpoint(str(file), logger="silent")
        with pytest.raises(UserError, match=r"not downloaded from torchvision://resnet50; download"):
            CheckpointLoader.load_checkpoint("torchvision://resnet50", logger="silent")
        with pytest.raises(UserError, match="is a pickle"):
            mmengine_load(str(canary.parent / "evil.pkl"))
        with pytest.raises(UserError, match="is a pickle"):
            MODELS.build({"type": "mmseg.CrossEntropyLoss", "class_weight": str(canary.parent / "evil.pkl")})
    assert not canary.exists()
    contextvars.Context().run(mmengine_load, str(canary.parent / "evil.pkl"))
    assert canary.exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/a.json", "https://example.org/a.json", "s3://a/b.json"])
def test_mmengines_readers_fetch_nothing(address, monkeypatch):
    """As the class weights of a loss, the files of a dataset of mmseg, or an image in its lists of names."""
    monkeypatch.setattr("mmengine.fileio.backends.http_backend.urlopen", lambda *_: pytest.fail("it was fetched"))
    loss = {"type": "mmseg.CrossEntropyLoss", "class_weight": address}
    with trusting():
        for read in (mmengine_load, get_file, lambda path: MODELS.build({**loss, "class_weight": path})):
            with pytest.raises(UserError, match=f"{address} is not downloaded"):
                read(address)


def test_a_loss_in_a_checkpoint_unpickles_nothing(canary, capsys):
    loss = {"type": "mmseg.CrossEntropyLoss", "class_weight": str(canary.parent / "evil.pkl")}
    config = settings(decode_head={"type": "mmseg.FCNHead", "channels": 8, "loss_decode": loss})
    file = write_checkpoint(canary.parent / "stranger.pth", config)
    with pytest.raises(UserError, match="is a pickle"):
        contextvars.Context().run(Predictor, file, device="cpu")
    assert not canary.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_shard_with_a_pickle_is_not_obeyed(legacy, canary, tmp_path):
    name = "pytorch_model-00001-of-00001.bin"
    index = tmp_path / "pytorch_model.bin.index.json"
    keys = ("conv1.weight", "transformer.resblocks.0.ln_1.bias", "vision_projector.projector.0.weight")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(keys, name)}))
    torch.save(dict.fromkeys(keys, Pickled(canary)), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    for read in (PLMVision.from_files, lambda path: PEBackbone("PE-Spatial-T16-512", weights=str(path))):
        with pytest.raises(UserError, match=f"{name}.*could run any code: refused"):
            read(index)
    assert not canary.exists()


def test_arrays_of_objects_are_not_read(canary):
    np.save(canary.parent / "depth.npy", np.array([Pickled(canary)], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="depth.npy"):
        LoadDepthMap().read(canary.parent / "depth.npy", 1.0)
    assert not canary.exists()


def test_a_resume_does_not_run_the_config_in_the_states_metadata(finished, canary, tmp_path):
    """Mmengine runs `meta.config` as Python when it resumes."""
    run = tmp_path / "resumed"
    shutil.copytree(finished[1], run)
    content = load_checkpoint(run / "iter_6.pth")
    content["meta"]["config"] = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    save_checkpoint(content, run / "iter_6.pth")
    train(toy_task.load(finished[0], run, "train_cfg.max_iters=7"), "yes")
    assert not canary.exists()


# --- what the user trusts ---------------------------------------------------------------------------------------------
OWN = """
from mmengine.registry import METRICS, MODELS
import os, toy_task
@MODELS.register_module()
class OwnModel(toy_task.ToyModel):
    pass
class OwnMetric(toy_task.ToyMetric):
    pass
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_package", None)
    MODELS.module_dict.pop("OwnModel", None)


def test_a_package_of_ones_own_works_from_training_to_prediction_where_it_is_trusted(tmp_path, own_package, capsys):
    images = toy_task.write_images(tmp_path / "images", count=2)
    config = toy_task.write_config(tmp_path, images, max_iters=5, val_interval=5, save=5)
    own = config.read_text().replace("[toy_task]", "[own_package]").replace("type: ToyModel", "type: OwnModel")
    config.write_text(own.replace("type: ToyMetric", "type: own_package.OwnMetric"))
    command = ["--config", str(config), "--output", str(tmp_path / "run"), "experiment_name=own"]
    assert run_command("train", command) == 2
    assert not (tmp_path / "run").exists()
    line = capsys.readouterr().err
    assert f"{config}:3: custom_imports.imports.0: 'own_package' is imported only if you allow it, because" in line
    assert "--allow-import own_package" in line
    assert run_command("train", [*command, "--allow-import", "own_package"]) == 0

    with pytest.raises(UserError, match=r"custom_imports.imports.0.*--allow-import own_package, or trust="):
        Predictor(tmp_path / "run", device="cpu")
    predictor = Predictor(tmp_path / "run", device="cpu", trust=["own_package"])
    assert type(predictor.model).__module__ == "own_package"
    assert run_command("eval", [str(tmp_path / "run")]) == 2
    assert run_command("eval", [str(tmp_path / "run"), "--allow-import", "own_package"]) == 0
    longer = ["--resume", str(tmp_path / "run"), "train_cfg.max_iters=6", "experiment_name=own2"]
    assert run_command("train", longer) == 2
    assert run_command("train", [*longer, "--allow-import", "own_package"]) == 0


def test_what_a_trusted_package_has_imported_is_not_trusted(own_package):
    with trusting(["own_package"]):
        for name in ("own_package.OwnModel", "own_package.OwnMetric"):
            assert resolve(name).__name__ == name.rpartition(".")[2]
        for name in ("own_package.os", "own_package.os.system", "own_package.MODELS", "own_package.toy_task.ToyModel"):
            assert resolve(name) is None
    assert resolve("own_package.OwnModel") is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("subprocess", "part of Python"),
        ("os.path", "part of Python"),
        ("no_such_package", "no package 'no_such_package' is installed"),
        ("my_package.py/..", "is not the name of a package"),
        ("", "is not the name of a package"),
        ("a b", "is not the name of a package"),
    ],
)
def test_what_cannot_be_trusted_is_said(name, why, capsys):
    assert run_command("configs", ["show", BASE, "--allow-import", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert why in line


def test_trust_ends_with_its_block_and_blocks_nest(own_package):
    with trusting("own_package"):
        with trusting(["toy_task"]):
            assert is_trusted("own_package.models")
            assert is_trusted("toy_task")
        assert not is_trusted("own_packages")
    assert not is_trusted("own_package")


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Conv2d",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "torchvision.ops.FrozenBatchNorm2d",
        "torchvision.transforms.v2.Resize",
        "timm.optim.Lamb",
        "mmengine.optim.OptimWrapper",
        "mmseg.models.decode_heads.uper_head.UPerHead",
        "pe_spatial.tracking.metrics.JFMetric",
    ],
)
def test_what_configs_need_is_free(name):
    assert resolve(name).__name__ == name.rpartition(".")[2]


def test_the_check_costs_milliseconds(base):
    started = time.perf_counter()
    for _ in range(10):
        assert not list(violations(base))
    assert (time.perf_counter() - started) / 10 < 0.02
