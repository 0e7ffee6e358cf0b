"""Bytes that are flipped, cut and swapped: every reader returns a result or says in one line what is wrong.

PE_SPATIAL_FUZZ_SECONDS lengthens the search, PE_SPATIAL_FUZZ_SEED gives it other damage.
"""

import json
import os
import time
import warnings
from itertools import count

import numpy as np
import pytest
import torch
import toy_task
from children import CONTEXT
from fuzzing import damage, distort, generator, verdict
from mmengine.registry import DATASETS
from PIL import Image
from small_runs import write_strips
from small_segmenters import save_segmenter

import pe_spatial.detection  # noqa: F401 - registers its datasets
from pe_spatial.alignment.cache import TeacherCache, create_cache
from pe_spatial.alignment.map_codec import MapCodec
from pe_spatial.backbones.weights import read_encoder
from pe_spatial.common import safe_yaml
from pe_spatial.common.pictures import image_size, read_image, read_indices
from pe_spatial.common.records import Records
from pe_spatial.common.tensors import read_tensor_file, write_tensor_file
from pe_spatial.common.video import VideoReader, VideoWriter
from pe_spatial.inference.predictor import Predictor
from pe_spatial.segmentation.class_list import read_class_list
from pe_spatial.training.checkpoint import find_resumable, load_checkpoint, read_best, resolve_checkpoint
from pe_spatial.training.config import load_config
from pe_spatial.training.progress import read_metrics

SEED = int(os.environ.get("PE_SPATIAL_FUZZ_SEED", "0"))
SECONDS = float(os.environ.get("PE_SPATIAL_FUZZ_SECONDS", "0.7"))  # for each kind of file

KINDS = {}


def kind(name):
    """Register what makes the files of a kind: a function of (folder, rng) that yields reads of damaged files."""

    def register(function):
        KINDS[name] = function
        return function

    return register


def spoiled(path, rng, content):
    """Write damaged bytes as another file, so that nothing that is mapped changes."""
    path.unlink(missing_ok=True)
    path.write_bytes(damage(content, rng))
    return path


def same(found, expected):
    """A complaint where tensors were read that were not written."""
    wrong = [key for key in expected if key not in found or not torch.equal(found[key], expected[key])]
    return f"damaged tensors pass as sound: {wrong}" if wrong or len(found) != len(expected) else ""


@kind("checkpoint")
def checkpoints(folder, rng):
    save_segmenter(folder / "whole.pth")
    content, expected = (folder / "whole.pth").read_bytes(), load_checkpoint(folder / "whole.pth")["state_dict"]
    for number in count():
        path = spoiled(folder / "damaged.pth", rng, content)
        yield lambda path=path: same(load_checkpoint(path)["state_dict"], expected)
        if number % 20 == 0:
            yield lambda path=path: Predictor(path, "cpu") and ""


@kind("entries of a checkpoint")
def entries(folder, rng):
    save_segmenter(folder / "whole.pth")
    whole = dict(load_checkpoint(folder / "whole.pth"))
    described = {**whole["pe_spatial"], "config": json.loads(whole["pe_spatial"]["config"])}
    for number in count():
        odd = distort(described, rng) if rng.random() < 0.7 else described
        if isinstance(odd, dict) and isinstance(odd.get("config"), dict | list) and rng.random() < 0.95:
            odd["config"] = json.dumps(odd["config"])
        content = {**whole, "pe_spatial": odd}
        if rng.random() < 0.3:
            content[rng.choice(["state_dict", "meta", "pe_spatial"])] = distort({"a": [1, {"b": 2}]}, rng)
        path = folder / f"{number % 2}.pth"
        path.unlink(missing_ok=True)
        torch.save(content, path)
        yield lambda path=path: Predictor(path, "cpu") and ""


@kind("safetensors")
def safetensors(folder, rng):
    tensors = {"conv1.weight": torch.randn(8, 3, 4, 4), "b.c": torch.arange(7), "d": torch.randn(3, 5).bfloat16()}
    write_tensor_file(tensors, folder / "whole.safetensors")
    content = (folder / "whole.safetensors").read_bytes()
    while True:
        path = spoiled(folder / "damaged.safetensors", rng, content)
        if b'"content_hash"' in path.read_bytes():  # else two things were damaged, one of them what tells of the other
            yield lambda path=path: same(read_tensor_file(path), tensors)
        yield lambda path=path: read_encoder(path) and ""


@kind("legacy torch file")
def legacy(folder, rng):
    tensors = {"a": torch.randn(8, 3), "b": [torch.arange(7)]}
    torch.save(tensors, folder / "whole.pt", _use_new_zipfile_serialization=False)
    content = (folder / "whole.pt").read_bytes()
    while True:
        path = spoiled(folder / "damaged.pt", rng, content)
        yield lambda path=path: read_tensor_file(path) and ""  # it has no checksums


@kind("COCO")
def coco(folder, rng):
    write_strips(folder)
    whole = json.loads((folder / "instances.json").read_text())
    content = json.dumps(whole).encode()
    pipeline = [{"type": "LoadImage"}, {"type": "LoadInstances"}, {"type": "PackSample"}]
    config = {"type": "CocoInstances", "data_root": str(folder), "ann_file": "damaged.json", "pipeline": pipeline}

    def read():
        dataset = DATASETS.build({**config, "data_prefix": {"img_path": "images"}})
        for index in range(min(len(dataset), 2)):
            dataset[index]

    while True:
        if rng.random() < 0.4:
            spoiled(folder / "damaged.json", rng, content)
        else:
            (folder / "damaged.json").write_text(json.dumps(distort(whole, rng)))
        yield read


@kind("panoptic")
def panoptic(folder, rng):
    segments = [{"id": number, "category_id": number, "area": 5, "iscrowd": 0} for number in (1, 2)]
    whole = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 5}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": number, "name": str(number), "isthing": 1, "color": [1, 2, 3]} for number in (1, 2)],
    }
    config = {"type": "CocoPanoptic", "data_root": str(folder), "ann_file": "damaged.json", "pipeline": []}

    def read():
        DATASETS.build({**config, "data_prefix": {"img_path": "a", "seg_map_path": "b"}})

    while True:
        (folder / "damaged.json").write_text(json.dumps(distort(whole, rng)))
        yield read


@kind("list of classes")
def class_list(folder, rng):
    whole = {
        "classes": {"road": [1, 2, 3], "tree": [4, 5, 6]},
        "images": {"train": "a"},
        "labels": {"train": "b"},
        "ignored": [255],
        "first": 1,
    }
    while True:
        text = safe_yaml.write(distort(whole, rng))
        (folder / "data.yaml").write_text(text)
        if rng.random() < 0.3:
            spoiled(folder / "data.yaml", rng, text.encode())
        yield lambda: read_class_list(folder / "data.yaml") and ""


@kind("files of a run")
def run_files(folder, rng):
    save_segmenter(folder / "iter_3.pth")
    (folder / "best_iter_2.pth").write_bytes((folder / "iter_3.pth").read_bytes())
    best = {"file": "best_iter_2.pth", "metric": "a", "score": 0.5, "iter": 2}
    sound = {
        "last_checkpoint": b"iter_3.pth\n",
        "best_checkpoint.json": json.dumps(best).encode(),
        "metrics.jsonl": b"".join(
            json.dumps({"mode": mode, "iter": number, "a": 0.5}).encode() + b"\n"
            for number in (1, 2)
            for mode in ("train", "val")
        ),
    }

    def read():
        assert resolve_checkpoint(folder).suffix == ".pth"
        assert find_resumable(folder)[0] == folder / "iter_3.pth"
        assert all({"mode", "iter"} <= record.keys() for record in read_metrics(folder))
        read_best(folder)

    while True:
        for name, content in sound.items():
            (folder / name).write_bytes(content)
        spoiled(folder / (name := rng.choice(list(sound))), rng, sound[name])
        if name == "best_checkpoint.json" and rng.random() < 0.5:
            (folder / name).write_text(json.dumps(distort(best, rng)))
        yield read


@kind("records")
def records(folder, rng):
    with_results = Records(folder, {"task": "a", "size": [1, 2]})
    with_results.claim([])
    for number in range(5):
        with_results.add(f"{number}.png", {"boxes": [1, 2]}, (1, 2), {"picture": "a.png"})
    with_results.close()
    sound = {path: path.read_bytes() for path in folder.glob(".pe_spatial/*") if path.suffix in (".json", ".sqlite")}

    def read():
        opened = Records(folder, {"task": "a", "size": [1, 2]})
        [unit.paths() for unit in opened.units()]
        list(opened.contents())
        opened.claim([])
        opened.add("6.png", {}, None, {})
        opened.close()

    while True:
        for path in folder.glob(".pe_spatial/*"):
            path.unlink()
        for path, content in sound.items():
            path.write_bytes(content)
        spoiled(path := rng.choice(list(sound)), rng, sound[path])
        yield read


@kind("teacher cache")
def teacher_cache(folder, rng):
    images = [("a.png", 10), ("b.png", 20), ("c.png", 30)]
    made = create_cache(folder / "cache", {"teacher": "t"}, (4, 4), images, MapCodec(), 2)
    for number in range(2):
        list(made.fill(number, lambda row: torch.randn(8, 4, 4)))
    header = json.loads((made.folder / "cache.json").read_text())
    sound = {path: path.read_bytes() for path in made.folder.iterdir()}

    def read():
        cache = TeacherCache(made.folder)
        cache.check_complete()
        [cache.read(row) for row in range(3)]
        cache.check_images([("a.png", 10), ("b.png", 21), ("c.png", 30)])

    while True:
        for path, content in sound.items():
            path.write_bytes(content)
        path = spoiled(rng.choice(list(sound)), rng, sound[path])
        if path.name == "cache.json" and rng.random() < 0.7:
            path.write_text(json.dumps(distort(header, rng)))
        yield read


@kind("YAML")
def yaml(folder, rng):
    content = toy_task.write_config(folder, folder).read_bytes()
    path = folder / "damaged.yaml"
    while True:
        path.write_bytes(damage(content, rng))
        yield lambda: load_config(path) and ""


@kind("pictures")
def pictures(folder, rng):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    images = {
        "a.png": Image.fromarray(pixels),
        "b.jpg": Image.fromarray(pixels),
        "c.png": Image.fromarray(pixels[..., 0]),
    }
    images |= {"d.tif": Image.fromarray(pixels), "e.webp": Image.fromarray(pixels), "f.bmp": Image.fromarray(pixels)}
    for name, image in images.items():
        image.save(folder / name)
    sound = {name: (folder / name).read_bytes() for name in images}
    while True:
        name = rng.choice(list(sound))
        path = spoiled(folder / f"damaged_{name}", rng, sound[name])
        for read in (read_image, image_size, read_indices):
            yield lambda read=read, path=path: read(path) is None and ""


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_a_result_or_one_line(name, tmp_path):
    rng = generator(SEED, name)
    reads = KINDS[name](tmp_path, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end or done < 5:
            problem = verdict(next(reads), tmp_path / "damaged.yaml" if name == "YAML" else None)
            assert not problem, f"damage {done} of seed {SEED}: {problem}"
            done += 1


# --- videos: a decoder that crashes takes its process with it ---------------------------------------------------------
def write_video(path):
    with VideoWriter(path, rate=10) as video:
        for number in range(12):
            video.write(torch.from_numpy(np.random.default_rng(number).integers(0, 255, (3, 48, 64), np.uint8)))
    return path.read_bytes()


def read_videos(folder, seed, seconds):
    """Read damaged videos; the file `current` says which one is being read."""
    content, rng = (folder / "whole.mp4").read_bytes(), generator(seed, "video")
    path, end = folder / "damaged.mp4", time.monotonic() + seconds

    def read():
        with VideoReader(path) as video:
            for _ in video.read():
                pass

    for number in count():
        if time.monotonic() > end:
            break
        spoiled(path, rng, content)
        (folder / "current").write_text(f"{number}: the process crashed or hung")
        problem = verdict(read)
        if problem:
            (folder / "current").write_text(f"{number}: {problem}")
            os._exit(1)
    (folder / "current").write_text("")


def test_damaged_videos_are_read_or_named(tmp_path):
    write_video(tmp_path / "whole.mp4")
    process = CONTEXT.Process(target=read_videos, args=(tmp_path, SEED, SECONDS))
    process.start()
    process.join(SECONDS + 60)
    process.kill()
    assert (tmp_path / "current").read_text() == "", f"seed {SEED}"


def test_the_judgment_finds_what_it_looks_for():
    def fail(error):
        raise error

    assert "KeyError" in verdict(lambda: fail(KeyError("a")))
    assert verdict(lambda: fail(OSError("two\nlines"))).startswith("no single line")
    assert verdict(lambda: fail(OSError("one line"))) == verdict(lambda: None) == ""
    assert same({"a": torch.ones(1)}, {"a": torch.zeros(1)}) and not same({"a": torch.ones(1)}, {"a": torch.ones(1)})
