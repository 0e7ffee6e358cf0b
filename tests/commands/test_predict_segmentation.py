"""tools/predict.py on a folder of images to segment: mirrored, resumable, split over processes, and robust."""

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from children import CONTEXT
from PIL import Image
from processes import free_port
from small_segmenters import CLASSES, save_photos, save_segmenter

from pe_spatial.commands.shell import run_command
from pe_spatial.common.records import Records
from pe_spatial.segmentation.predictor import SegmentationPredictor
from pe_spatial.training.checkpoint_hook import describe

WINDOW = {"window": {"size": [32, 40], "stride": [21, 27]}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_segmenter(tmp_path_factory.mktemp("checkpoint") / "seg.pth", **WINDOW)


@pytest.fixture
def photos(tmp_path):
    """Three images, two of them in subfolders, and a file that is no image."""
    folder = save_photos(tmp_path / "photos", b=(40, 64), more__a=(64, 48), more__deep__c=(33, 70))
    (folder / "more/broken.jpg").write_bytes(b"no picture")
    return folder


def run(checkpoint, source, output, *options):
    arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--device", "cpu", *options]
    return run_command("predict", [str(argument) for argument in arguments])


def files_below(folder):
    """The results, without what the folder remembers of its runs."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in files if not name.startswith(".pe_spatial/")]


def labels_of(output, name):
    with Image.open(output / "labels" / f"{name}.png") as image:
        return np.asarray(image)


def test_a_folder_equals_image_by_image(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(checkpoint, photos, output, "--confidence", "--probabilities") == 1  # one file could not be read
    assert "not read" in (errors := capsys.readouterr().err) and "broken.jpg" in errors
    names = ["b", "more/a", "more/deep/c"]
    expected = [f"{kind}/{name}.png" for kind in ("confidence", "labels", "pictures") for name in names]
    expected += [f"probabilities/{name}.npy" for name in names]
    assert files_below(output) == sorted(["failed.json", *expected, "segmentation.json"])
    (failure,) = json.loads((output / "failed.json").read_text())["files"]
    assert failure["file_name"] == "more/broken.jpg" and "broken.jpg" in failure["problem"]
    predictor = SegmentationPredictor(checkpoint, "cpu").configure(confidence=True)
    for name in names:
        sample = predictor(photos / f"{name}.png")
        assert np.array_equal(labels_of(output, name), sample.pred_sem_seg.data[0])
        with Image.open(output / "confidence" / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), sample.pred_confidence.data[0])
        probabilities = np.load(output / f"probabilities/{name}.npy")  # 16 bits: near ties become ties
        assert (probabilities.argmax(-1) == labels_of(output, name)).mean() > 0.99
    content = json.loads((output / "segmentation.json").read_text())
    assert [record["file_name"] for record in content["files"]] == [f"{name}.png" for name in names]
    for record, name in zip(content["files"], names, strict=True):
        counts = np.bincount(labels_of(output, name).ravel(), minlength=5)
        assert record["pixels"] == {CLASSES[k]: n for k, n in enumerate(counts.tolist()) if n}


def test_a_rerun_does_only_what_is_missing(checkpoint, photos, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    assert run(checkpoint, photos, output, "--limit", "1", "--no-pictures") == 0
    first = (output / "labels/b.png").stat()
    seen = []
    load = SegmentationPredictor.load
    monkeypatch.setattr(SegmentationPredictor, "load", lambda self, path: (seen.append(path.name), load(self, path))[1])
    (photos / "more/broken.jpg").unlink()
    assert run(checkpoint, photos, output, "--no-pictures") == 0
    assert sorted(seen) == ["a.png", "c.png"] and "1 of 3 files were done" in capsys.readouterr().out
    assert (output / "labels/b.png").stat().st_mtime_ns == first.st_mtime_ns
    assert len(json.loads((output / "segmentation.json").read_text())["files"]) == 3
    seen.clear()
    assert run(checkpoint, photos, output) == 0  # pictures are missing now
    assert len(seen) == 3
    seen.clear()
    assert run(checkpoint, photos, output) == 0 and not seen


def test_its_own_results_are_no_input(checkpoint, photos):
    (photos / "more/broken.jpg").unlink()
    for _ in range(2):
        assert run(checkpoint, photos, photos / "out") == 0
    assert len(json.loads((photos / "out/segmentation.json").read_text())["files"]) == 3


def test_other_results_in_the_folder_are_refused(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "out"
    assert run(checkpoint, photos / "b.png", output) == 0
    other = save_segmenter(tmp_path / "other.pth", seed=1, **WINDOW)
    before = {path: (output / path).read_bytes() for path in files_below(output)}
    assert run(other, photos, output) == 2
    assert "contains the results of another run (model 'seg' instead of 'other', weights" in capsys.readouterr().err
    assert run(checkpoint, photos, output, "--window", "32", "16") == 2
    assert "window None instead of [32, 16]" in capsys.readouterr().err
    assert before == {path: (output / path).read_bytes() for path in files_below(output)}
    foreign = tmp_path / "foreign"
    (records := Records(foreign, {"task": "depth"})).claim(["depth.json"])
    records.add("b.png", {})
    records.close()
    assert run(checkpoint, photos, foreign) == 2
    assert "contains the results of another run (task 'depth' instead of 'segmentation'" in capsys.readouterr().err


def test_checkpoints_of_other_tasks(checkpoint, photos, tmp_path, capsys):
    for kind, package, message in (
        ("VideoTracker", "tracking", "has no writer for VideoTracker"),
        ("MaskRCNN", "detection", "--confidence is for segmentation, but"),
        ("Nothing", "detection", "the model Nothing"),
    ):
        path = tmp_path / f"{kind}.pth"
        config = {"model": {"type": kind}, "custom_imports": {"imports": [f"pe_spatial.{package}"]}}
        torch.save({"state_dict": {}, "pe_spatial": describe(config, {})}, path)
        assert run(path, photos, tmp_path / "out", "--confidence") == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_objects(photos, tmp_path):
    options = {"outputs": ["semantic", "panoptic", "instance"], "things": 2, "num_queries": 9, "num_blocks": 1}
    path = save_segmenter(tmp_path / "seg.pth", 0, "MaskDecoder", least_score=0.0, **options)
    assert run(path, photos / "b.png", tmp_path / "out", "--threshold", "0") == 0
    assert files_below(tmp_path / "out") == [
        "labels/b.png",
        "panoptic.json",
        "panoptic/b.png",
        "pictures/b.png",
        "segmentation.json",
    ]
    record = json.loads((tmp_path / "out/segmentation.json").read_text())["files"][0]
    assert record["instances"] and {"segments", "pixels"} <= set(record)


# --- a disk that fills up ---------------------------------------------------------------------------------------------
def test_a_disk_that_fills_up(checkpoint, photos, tmp_path, capsys, small_files):
    """No file may grow beyond a limit, as on a full disk: it ends, nothing half-written remains, it goes on."""
    (photos / "more/broken.jpg").unlink()
    save_photos(photos, z__large=(240, 320))
    output = tmp_path / "out"
    with small_files(60_000):
        assert run(checkpoint, photos, output, "--no-pictures", "--probabilities") == 2
    assert "free some space" in capsys.readouterr().err
    for path in output.rglob("*.png"):
        Image.open(path).load()  # complete
    assert not [path for path in files_below(output) if "writing" in path or "large" in path]
    assert run(checkpoint, photos, output, "--no-pictures", "--probabilities") == 0
    assert "3 of 4 files were done" in capsys.readouterr().out
    assert len(json.loads((output / "segmentation.json").read_text())["files"]) == 4


def test_a_disk_that_is_full_for_everything(checkpoint, photos, tmp_path, capsys, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pe_spatial.common.pictures.writing.write_atomically", fail)
    monkeypatch.setattr("pe_spatial.segmentation.results.write_json_stream", fail)
    assert run(checkpoint, photos, tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err


# --- several processes ------------------------------------------------------------------------------------------------
def process(number, port):
    """The variables that torchrun sets for one of two processes."""
    local = {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return {"RANK": str(number), "WORLD_SIZE": "2", **local, **place}


def second(environment, arguments):
    os.environ.update(environment)
    sys.exit(run(*arguments))


def test_processes_share_a_folder(checkpoint, photos, tmp_path, monkeypatch):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert run(checkpoint, photos, alone) == 1
    port = free_port()
    other = CONTEXT.Process(target=second, args=(process(1, port), (checkpoint, photos, shared)))
    other.start()
    for name, value in process(0, port).items():
        monkeypatch.setenv(name, value)
    try:
        assert run(checkpoint, photos, shared) == 1  # both know of the file that could not be read
    finally:
        torch.distributed.destroy_process_group()
    other.join(120)
    assert other.exitcode == 1
    assert files_below(shared) == files_below(alone)
    for name in files_below(alone):
        assert (shared / name).read_bytes() == (alone / name).read_bytes()


# --- real input -------------------------------------------------------------------------------------------------------
def test_real_photos(checkpoint, tmp_path):
    folder = Path(__file__).parents[3] / "shared/data/coco_tiny/val2017"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    assert run(checkpoint, folder, tmp_path / "out", "--limit", "2", "--window", "256", "256") == 0
    for record in json.loads((tmp_path / "out/segmentation.json").read_text())["files"]:
        with (
            Image.open(folder / record["file_name"]) as photo,
            Image.open(tmp_path / "out" / record["labels"]) as labels,
        ):
            assert photo.size == labels.size == (record["width"], record["height"])


# --- precision --------------------------------------------------------------------------------------------------------
def probabilities_of(output, name):
    return np.load(output / "probabilities" / f"{name}.npy").astype(np.float32)


def test_a_precision_is_computed_in_and_remembered(checkpoint, tmp_path, capsys):
    photos = save_photos(tmp_path / "photos", b=(40, 64))
    outputs = {name: tmp_path / name for name in ("plain", "fp32", "bf16")}
    options = {name: ["--precision", name] * (name != "plain") for name in outputs}
    for name, output in outputs.items():
        assert run(checkpoint, photos, output, "--probabilities", "--no-pictures", *options[name]) == 0
    found = {name: probabilities_of(output, "b") for name, output in outputs.items()}
    assert np.array_equal(found["plain"], found["fp32"])
    assert 0 < np.abs(found["bf16"] - found["fp32"]).max() < 0.05
    assert run(checkpoint, photos, outputs["bf16"], "--probabilities", "--no-pictures", "--precision", "fp32") == 2
    assert "precision" in capsys.readouterr().err


@pytest.mark.parametrize(("fast", "meant"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_has_it(checkpoint, tmp_path, monkeypatch, fast, meant):
    monkeypatch.setattr("pe_spatial.training.amp.multiplies_in_bfloat16", lambda device: fast)
    photos = save_photos(tmp_path / "photos", b=(40, 64))
    for precision in ("auto", meant):  # the second finds its own results
        assert run(checkpoint, photos, tmp_path / "out", "--no-pictures", "--precision", precision) == 0


def test_a_precision_is_for_torch(checkpoint, tmp_path, capsys):
    photos = save_photos(tmp_path / "photos", b=(40, 64))
    assert run(checkpoint, photos, tmp_path / "out", "--precision", "bf16", "--engine", "auto") == 2
    assert "keeps its precision" in capsys.readouterr().err and not (tmp_path / "out").exists()
