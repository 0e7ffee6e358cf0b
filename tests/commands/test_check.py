"""The dataset doctor: quiet on sound data of every task, and right about each thing that was spoiled on purpose."""

import gc
import json
import logging
import os
import random
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_task
import yaml
from children import CONTEXT
from mmengine.registry import DATASETS
from PIL import Image

from pe_spatial.commands.shell import run_command
from pe_spatial.doctor import ExaminationOptions, Finding, Findings, Histogram, examine_dataset
from pe_spatial.training.config import load_config

ROOT = Path(__file__).resolve().parents[2]
BASES = ROOT / "configs" / "_base_"
# base of the data, packages to import
TASKS = {
    "detection": ("demo_shapes", ["pe_spatial.detection"]),
    "segmentation": ("demo_segmentation", ["pe_spatial.segmentation"]),
    "panoptic": ("demo_panoptic", ["pe_spatial.segmentation"]),
    "depth": ("demo_depth", ["pe_spatial.depth"]),
    "tracking": ("davis2017", ["pe_spatial.tracking"]),
}
SIZE = 32


@pytest.fixture(scope="module", autouse=True)
def short_collections():
    """Every dataset makes mmengine collect garbage, which takes half a second where torch is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "data"
    arguments = [
        "--output",
        out,
        "--images",
        18,
        "--image-size",
        SIZE,
        "--videos",
        2,
        "--frames",
        3,
        "--video-size",
        SIZE,
        48,
    ]
    assert run_command("demo", [*map(str, arguments), "--no-photographs"]) == 0
    return out


@pytest.fixture
def data(drawn, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(drawn, tmp_path / "data")


def config_of(task, folder, data, changes=()):
    """A config of nothing but the data; `changes` are dotted keys of the training and the validation dataset."""
    base, packages = TASKS[task]
    splits = ("test",) if task == "tracking" else ("train", "val")
    root = str(data / "davis" if task == "tracking" else data)
    content = {
        "_base_": [str(BASES / "runtime.yaml"), str(BASES / "datasets" / f"{base}.yaml")],
        "custom_imports": {"imports": packages},
        **{f"{split}_dataloader": {"dataset": {"data_root": root, **dict(changes)}} for split in splits},
    }
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def check(monkeypatch, capfd, tmp_path):
    """Run the tool: (exit code, standard output, standard error)."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # mmengine's logger keeps the stream of an earlier test

    def run(task, data, *arguments, changes=()):
        config = config_of(task, tmp_path, data, changes)
        monkeypatch.chdir(tmp_path)
        code = run_command("check", ["--config", str(config), *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def rewrite(path, change):
    """Change the values of a PNG."""
    with Image.open(path) as image:
        values = np.array(image)
    Image.fromarray(change(values)).save(path)


def edit(path, change):
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- sound data -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", TASKS)
def test_sound_data_pass_and_are_drawn(task, drawn, check, tmp_path):
    code, out, err = check(task, drawn, "--tiles", 3)
    assert code == 0, out + err
    assert "error:" not in out
    assert "0 kinds of errors" in out
    sheets = sorted((tmp_path / "work_dirs" / task / "data_check").glob("*.png"))
    assert [sheet.stem for sheet in sheets] == (["test"] if task == "tracking" else ["train", "val"])
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert image.width > 2 * 288  # at least two pictures side by side
            assert len(image.getcolors(image.width * image.height)) > 1000


def test_the_histogram_counts_the_pixels_and_objects_that_there_are(drawn, check):
    _, out, _ = check("segmentation", drawn, "--tiles", 0)
    maps = [np.asarray(Image.open(path)) for path in sorted((drawn / "labels" / "train").glob("*.png"))]
    rows = {line.split()[0]: line.split() for line in out.partition("== val")[0].splitlines() if "%" in line}
    for index, name in enumerate(("wall", "floor", "disc", "box", "triangle")):
        pixels = sum(int((labels == index).sum()) for labels in maps)
        assert int(rows[name][1].replace(",", "")) == pixels
        assert int(rows[name][3]) == sum((labels == index).any() for labels in maps)


def test_samples_are_spread_over_the_data(drawn, check):
    code, out, _ = check("segmentation", drawn, "--tiles", 0, "--samples", 4, "--threads", 3)
    assert code == 0
    assert "train: SegmentationFolder, 15 samples, 4 looked at" in out


# --- spoiled data: (task, what is done to it, what is said) -----------------------------------------------------------
def truncate(data):
    path = data / "images" / "train" / "000002.jpg"
    path.write_bytes(path.read_bytes()[:300])


def remove_mask(data):
    (data / "davis/Annotations/480p/shapes-01/00000.png").unlink()


def shrink_label(data):
    rewrite(data / "labels/train/000002.png", lambda v: v[:, :20])


def unknown_label(data):
    rewrite(data / "labels/train/000002.png", lambda v: np.where(np.arange(SIZE) < 3, 77, v).astype(np.uint8))
    rewrite(data / "labels/train/000003.png", lambda v: np.where(np.arange(SIZE) < 1, 77, v).astype(np.uint8))


def binary_labels(data):
    for path in (data / "labels").rglob("*.png"):
        rewrite(path, lambda v: np.where(v > 1, 255, 0).astype(np.uint8))


def count_from_one(data):
    for path in (data / "labels").rglob("*.png"):
        rewrite(path, lambda v: v + 1)


def say_zero_is_ignored(data):
    path = data / "classes.yaml"
    path.write_text(path.read_text() + "zero_is_ignored: true\n")


def leak(data):
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        shutil.copy(data / kind / f"train/000001.{suffix}", data / kind / f"val/000099.{suffix}")


def leak_under_another_format(data):
    Image.open(data / "images/train/000001.jpg").save(data / "images/val/000099.png")
    shutil.copy(data / "labels/train/000001.png", data / "labels/val/000099.png")


def remove_image(data):
    (data / "images/train/000002.jpg").unlink()


def move_box_out(data):
    def change(content):
        content["annotations"][0]["bbox"] = [SIZE + 5, 0, 4, 4]
        content["annotations"][1]["bbox"] = [SIZE - 4, 0, 40, 4]

    edit(data / "annotations/instances_train.json", change)


def categories_from_zero(data):
    def change(content):
        for entry in content["categories"]:
            entry["id"] -= 3
        for entry in content["annotations"]:
            entry["category_id"] -= 3
            entry["id"] -= 1

    edit(data / "annotations/instances_train.json", change)


def categories_with_gaps(data):
    def change(content):
        content["categories"].append({"id": 90, "name": "toothbrush"})

    edit(data / "annotations/instances_train.json", change)


def boxes_only(data):
    def change(content):
        for entry in content["annotations"]:
            del entry["segmentation"]

    edit(data / "annotations/instances_val.json", change)


def no_objects(data):
    edit(data / "annotations/instances_train.json", lambda content: content.update(annotations=[]))


def another_recorded_size(data):
    edit(data / "annotations/instances_train.json", lambda content: content["images"][0].update(height=99))


def far_depth(data):
    rewrite(data / "depth/train/000002.png", lambda v: np.full_like(v, 65000))


def constant_depth(data):
    rewrite(data / "depth/train/000002.png", lambda v: np.full_like(v, 3000))


def sparse_depth(data):
    rewrite(data / "depth/train/000002.png", lambda v: np.where(np.arange(v.size).reshape(v.shape) == 0, v, 0))


def crop_frame(data):
    path = data / "davis/JPEGImages/480p/shapes-02/00001.jpg"
    Image.open(path).crop((0, 0, 20, 20)).save(path)


def empty_first_mask(data):
    rewrite(data / "davis/Annotations/480p/shapes-02/00000.png", np.zeros_like)


def unlisted_segment(data):
    edit(data / "annotations/panoptic_train.json", lambda content: content["annotations"][0]["segments_info"].pop())


ERRORS = [
    ("segmentation", truncate, r"error: files that cannot be read\n.*train/000002\.jpg cannot be read"),
    ("segmentation", shrink_label, r"error: samples that the loaders refuse\n.*000002\.png is \(32, 20\)"),
    ("segmentation", unknown_label, r"error: label values outside the class list\n +77: 128 pixels in 2 files"),
    ("segmentation", binary_labels, r"error: binary masks of 0 and 255\n +all 15 label maps"),
    ("segmentation", count_from_one, r"error: zero_is_ignored is probably missing\n +the files hold 1…5 and never 0"),
    (
        "segmentation",
        say_zero_is_ignored,
        r"error: zero_is_ignored is probably wrong\n +the files hold 0…4 and never 5",
    ),
    ("segmentation", leak, r"error: images of val that are also in train\n.*val/000099\.jpg = .*train/000001\.jpg"),
    ("segmentation", leak_under_another_format, r"images of val that are also in train\n.*000099\.png = .*000001\.jpg"),
    ("segmentation", remove_image, r"error: the dataset cannot be loaded\n.*no image for 1 of 15 names"),
    ("panoptic", unlisted_segment, r"error: samples that the loaders refuse\n.*is not among the"),
    ("detection", remove_image, r"error: the dataset cannot be loaded\n.*1 of 15 images are not in their folder"),
    ("detection", move_box_out, r"error: boxes without area in their image\n +annotation 1: .*\[37, 0, 4, 4\]"),
    ("detection", no_objects, r"error: 15 of 15 images have no object"),
    ("detection", another_recorded_size, r"error: the dataset cannot be loaded\n.*RLE .* 32, 32, .* 32, 99"),
    ("depth", far_depth, r"error: depth maps without a pixel in depth_range\n.*000002\.png: .* to .* m"),
    ("tracking", crop_frame, r"error: frames of another size than their video\n.*00001\.jpg is \(20, 20\)"),
    ("tracking", remove_mask, r"error: the dataset cannot be loaded\n.*has no 00000\.png"),
    ("tracking", empty_first_mask, r"error: first masks without an object\n.*shapes-02/00000\.png"),
]


@pytest.mark.parametrize(("task", "spoil", "message"), ERRORS, ids=[f"{t}-{s.__name__}" for t, s, _ in ERRORS])
def test_what_is_wrong_is_found_and_named(task, spoil, message, data, check):
    spoil(data)
    code, out, err = check(task, data, "--tiles", 2)
    assert code == 1, out + err
    assert re.search(message, out), out
    assert "Traceback" not in out + err


WARNINGS = [
    ("detection", move_box_out, "warning: boxes that reach beyond their image"),
    ("detection", categories_from_zero, "warning: category ids start at 0"),
    ("detection", categories_from_zero, "warning: annotation ids start at 0"),
    ("detection", categories_with_gaps, r"note: category ids have gaps\n +4 ids in 3…90: labels 0…3"),
    ("detection", categories_with_gaps, r"warning: 1 of 4 classes never occur\n +toothbrush"),
    ("detection", boxes_only, r"note: (\d+) of \1 annotations have no mask"),
    ("depth", constant_depth, r"warning: depth maps of one constant value\n.*000002\.png: 3 m"),
    ("depth", sparse_depth, r"warning: depth maps with measurements in less than 1% of the pixels\n.*1 of 1024"),
]


@pytest.mark.parametrize(("task", "spoil", "message"), WARNINGS, ids=[f"{t}-{m[:30]}" for t, _, m in WARNINGS])
def test_what_is_odd_is_a_warning(task, spoil, message, data, check):
    spoil(data)
    code, out, _ = check(task, data, "--tiles", 0)
    assert code == (1 if spoil is move_box_out else 0), out
    assert re.search(message, out), out


def test_a_mistake_in_the_command_or_the_config_exits_with_2(check, drawn, capfd):
    code, _, err = check("segmentation", drawn, "train_dataloader.dataset.splitt=x")
    assert code == 2
    assert "splitt" in err
    assert run_command("check", ["--config", "no_such_config"]) == 2
    assert "no config" in capfd.readouterr().err


# --- the short look before a training ---------------------------------------------------------------------------------
def dataset_of(task, folder, data):
    config = load_config(config_of(task, folder, data))
    return DATASETS.build(config.train_dataloader.dataset)


def test_a_short_look_ends_in_time_and_leaves_random_numbers_alone(drawn, tmp_path, monkeypatch):
    dataset = dataset_of("segmentation", tmp_path, drawn)
    original = type(dataset).get_data_info

    def slow(self, index):
        time.sleep(0.05)
        return original(self, index)

    monkeypatch.setattr(type(dataset), "get_data_info", slow)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    report = examine_dataset("train", dataset, ExaminationOptions(seconds=0.3, thorough=False))
    assert 1 <= report.seen < 12  # all would take twice the time
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]


def test_a_short_look_forgives_what_the_training_would_skip(data, tmp_path):
    truncate(data)
    dataset = dataset_of("segmentation", tmp_path, data)
    options = ExaminationOptions(seconds=60, thorough=False)
    assert examine_dataset("train", dataset, options).findings.count("error") == 1
    dataset.unreadable = "skip"
    assert examine_dataset("train", dataset, options).findings.count("error") == 0
    assert examine_dataset("train", dataset, ExaminationOptions()).findings.count("error") == 1


def test_threads_do_not_change_what_is_found(data, tmp_path):
    unknown_label(data)
    truncate(data)
    dataset = dataset_of("segmentation", tmp_path, data)
    reports = [examine_dataset("train", dataset, ExaminationOptions(threads=n)) for n in (1, 4)]
    assert list(reports[0].findings.lines()) == list(reports[1].findings.lines())
    assert reports[0].histograms == reports[1].histograms


def rank(number, port, config, work_dir):
    from pe_spatial.common.errors import ConfigError
    from pe_spatial.training.launch import train

    os.environ.update(
        RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"
    )
    os.environ.update(MASTER_PORT=str(port), CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    loaded = load_config(config)
    loaded.work_dir = str(work_dir)
    try:
        train(loaded)
    except ConfigError as error:
        os._exit(7 if "02.png" in str(error) and "--no-data-check" in str(error) else 8)


def test_all_processes_stop_though_one_looks(tmp_path):
    images = toy_task.write_images(tmp_path / "images", count=4)
    (images / "02.png").write_text("no image")
    config = toy_task.write_config(tmp_path, images)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes = [CONTEXT.Process(target=rank, args=(n, port, config, tmp_path / "run")) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [7, 7]


# --- how findings read ------------------------------------------------------------------------------------------------
def test_findings_are_counted_by_rule_and_the_gravest_come_first():
    findings = Findings()
    findings.add([Finding("note", "a note"), *(Finding("error", "bad files", f"{n}.png") for n in range(5))])
    assert list(findings.lines()) == [
        "error: bad files (5)",
        "    0.png",
        "    1.png",
        "    2.png",
        "    … and 2 more",
        "note: a note",
    ]
    assert (findings.count("error"), findings.count("warning"), findings.count("note")) == (1, 0, 1)


def test_a_long_table_leaves_out_classes_that_do_not_occur_and_the_middle():
    names = [f"class{n}" for n in range(100)]
    histogram = Histogram("pixels", names, [max(0, n - 20) for n in range(100)], [1] * 100)
    lines = list(histogram.lines())
    assert len(lines) == 1 + 40 + 1
    assert lines[1].startswith("class99")
    assert lines[-1].startswith("class21")
    assert histogram.absent == names[:21]
