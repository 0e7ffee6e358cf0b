"""pe-spatial features: what it goes on with, what it refuses, and what it does with bad files."""

import json
import resource
import shutil
import signal
import sys
import tarfile

import numpy as np
import pytest
from feature_scenes import TINY, child, run
from kills import results, start_process, status_of
from PIL import Image

from pe_spatial.backbones import VARIANTS
from pe_spatial.commands.shell import run_command
from pe_spatial.features import extractor as extractor_module
from pe_spatial.features import open_features


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(VARIANTS, "tiny", TINY)


@pytest.fixture
def photos(tmp_path):
    """Six pictures of two sizes."""
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(6):
        pixels = generator.integers(0, 256, (24, 24 if number % 2 else 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{number}.png")
    return tmp_path / "in"


def message(capsys):
    """The only line on standard error."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# --- an output folder that has results --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change, difference",
    [
        (["--layers", "1"], "layers [2] instead of [1]"),
        (["--image-size", "32"], "image_size 64 instead of 32"),
        (["--resize", "square"], "resize 'shorter' instead of 'square'"),
        (["--pool", "mean"], "pool 'none' instead of 'mean'"),
        (["--dtype", "fp32"], "dtype 'fp16' instead of 'fp32'"),
        (["--format", "npy"], "format 'safetensors' instead of 'npy'"),
        (["--batch-size", "4"], "batch_size 8 instead of 4"),
    ],
)
def test_a_folder_of_other_features_is_refused(change, difference, photos, tmp_path, capsys):
    assert run(photos, tmp_path / "out") == 0
    before = results(tmp_path / "out")
    capsys.readouterr()
    assert run(photos, tmp_path / "out", *change) == 2
    assert f"contains the results of another run ({difference}); give another --output" in message(capsys)
    assert results(tmp_path / "out") == before


def test_a_folder_of_another_encoder_is_refused(photos, tmp_path, capsys, monkeypatch):
    assert run(photos, tmp_path / "out") == 0
    open_encoder = extractor_module.open_encoder

    def changed(*arguments):
        encoder = open_encoder(*arguments)
        encoder.backbone.encoder.ln_pre.bias.data += 1
        return encoder

    monkeypatch.setattr(extractor_module, "open_encoder", changed)
    assert run(photos, tmp_path / "out") == 2
    assert "(weights '" in message(capsys)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_where_pictures_share_files_the_list_must_stay(kind, photos, tmp_path, capsys):
    if kind == "zarr":
        pytest.importorskip("zarr")
    assert run(photos, tmp_path / "out", "--format", kind) == 0
    shutil.copy(photos / "0.png", photos / "more.png")
    assert run(photos, tmp_path / "out", "--format", kind) == 2
    assert "(input '6 files (" in message(capsys)


def test_of_pictures_that_are_new_or_changed_only_these_are_computed(photos, tmp_path, monkeypatch):
    assert run(photos, tmp_path / "out") == 0
    shutil.copy(photos / "0.png", photos / "more.png")
    Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(photos / "1.png")
    seen = []
    load = extractor_module.FeatureExtractor.load

    def noted(self, picture, *channels):
        seen.append(picture.name)
        return load(self, picture, *channels)

    monkeypatch.setattr(extractor_module.FeatureExtractor, "load", noted)
    assert run(photos, tmp_path / "out") == 0
    assert sorted(seen) == ["1.png", "more.png"]
    assert len(open_features(tmp_path / "out")) == 7


# --- bad files among good ones ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["safetensors", "tar", "zarr"])
def test_unreadable_pictures_are_named_counted_and_taken_up_when_they_are_repaired(kind, photos, tmp_path, capsys):
    if kind == "zarr":
        pytest.importorskip("zarr")
    good = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(good[: len(good) // 2])
    (photos / "4.png").write_bytes(b"no picture at all")
    options = ["--format", kind, "--resize", "square"]
    assert run(photos, tmp_path / "out", *options) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "not read or predicted" in line and ("3.png" in line or "4.png" in line)] == lines
    assert len(lines) == 2
    failed = json.loads((tmp_path / "out/failed.json").read_text())["files"]
    assert [entry["file_name"] for entry in failed] == ["3.png", "4.png"]
    assert set(open_features(tmp_path / "out")) == {"0.png", "1.png", "2.png", "5.png"}
    (photos / "3.png").write_bytes(good)
    assert run(photos, tmp_path / "out", *options) == 1
    features = open_features(tmp_path / "out")
    assert set(features) == {"0.png", "1.png", "2.png", "3.png", "5.png"}
    assert all(np.isfinite(arrays["layer_2"]).all() for arrays in features.values())


def test_two_inputs_never_share_a_file(photos, tmp_path):
    Image.open(photos / "0.png").save(photos / "0.bmp")
    assert run(photos, tmp_path / "out") == 0
    features = open_features(tmp_path / "out")
    assert len({entry["features"] for entry in features.entries}) == len(features) == 7


def test_pictures_of_a_tar_and_of_a_list(photos, tmp_path, capsys):
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for path in sorted(photos.iterdir()):
            tar.add(path, path.name)
    (tmp_path / "list.txt").write_text("".join(f"in/{number}.png\n" for number in range(6)))
    for source in ("in", "in.tar", "list.txt"):
        assert run(tmp_path / source, tmp_path / f"out of {source}", "--form", "tokens") == 0
    loose = open_features(tmp_path / "out of in")
    for source in ("in.tar", "list.txt"):
        features = open_features(tmp_path / f"out of {source}")
        by_file = {name.rpartition("/")[2]: arrays["layer_2"] for name, arrays in features.items()}
        assert all(np.array_equal(by_file[name], arrays["layer_2"]) for name, arrays in loose.items())
    content = (tmp_path / "in.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 3])
    capsys.readouterr()
    assert run(tmp_path / "cut.tar", tmp_path / "cut") == 2
    assert "cut.tar is not a complete, uncompressed tar" in message(capsys)


# --- mistakes in the command ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options, text",
    [
        (["--layers", "3"], "3"),
        (["--pool", "attention"], "pool 'attention': tiny has no attention pooling; it has: none, mean, cls"),
        (["--dtype", "bf16", "--format", "npy"], "dtype bf16 is not a type of NumPy, so format npy cannot store it"),
        (["--weights", "nowhere.pt"], "no weights at 'nowhere.pt'"),
    ],
)
def test_what_the_encoder_cannot_give_is_refused_before_the_work(options, text, photos, tmp_path, capsys):
    assert run(photos, tmp_path / "out", *options) == 2
    assert text in message(capsys) and not (tmp_path / "out").exists()


def test_empty_folders_and_impossible_shards_are_refused(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out") == 2
    assert "empty contains no image or video" in message(capsys)
    for options in (["--shard", "3/2"], ["--pool", "mean", "--form", "tokens"]):
        with pytest.raises(SystemExit) as error:
            run(photos, tmp_path / "out", *options)
        assert error.value.code == 2
    arguments = ["--input", str(photos), "--output", str(tmp_path / "out")]
    assert run_command("features", [*arguments, "--encoder", "PE-Spatial-B16"]) == 2
    assert "did you mean 'PE-Spatial-B16-512'" in capsys.readouterr().err


def test_a_missing_package_is_named(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    assert run(photos, tmp_path / "out", "--format", "zarr") == 2
    assert message(capsys) == "error: zarr is not installed; pip install 'pe_spatial[zarr]'"


def limit_files():
    """Every file may have so many bytes only, as on a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.dont_write_bytecode = True  # Python does not notice that such a file is cut off, and reads it ever after
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kind", ["safetensors", "npy", "tar", "zarr"])
def test_a_full_disk_ends_the_run_and_the_next_one_completes_it(kind, photos, tmp_path):
    if kind == "zarr":
        pytest.importorskip("zarr")
    options = ("--format", kind, "--dtype", "fp32", "--layers", "0,1,2", "--image-size", "256")  # 213 kB a layer
    assert run(photos, tmp_path / "whole", *options) == 0
    arguments = (photos, tmp_path / "out", *options)
    assert status_of(start_process(child, *arguments, errors=tmp_path / "errors", sabotage=limit_files)) == 2
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith("error: ") and "free some space" in line
    assert run(photos, tmp_path / "out", *options) == 0
    assert results(tmp_path / "out").keys() == results(tmp_path / "whole").keys()
    assert len(open_features(tmp_path / "out")) == 6
