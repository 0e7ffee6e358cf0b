"""Names in data stay in the folders of the data, and results in the folder of the results."""

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_task
from coco_scenes import random_coco, write_coco
from PIL import Image
from small_runs import CONFIG, overrides, write_strips
from small_segmenters import save_photos, save_segmenter

from pe_spatial import PLMVision
from pe_spatial.alignment.hooks import StudentExportHook
from pe_spatial.backbones.weights import find
from pe_spatial.commands.shell import run_command
from pe_spatial.common.archives import INDEX_SUFFIX, read_images
from pe_spatial.common.errors import AnnotationError, OptionError, UnreadableFile, UserError
from pe_spatial.common.names import output_stems
from pe_spatial.common.shards import ShardIndex
from pe_spatial.common.sources import resolve_sources
from pe_spatial.data.annotations import file_below
from pe_spatial.depth.datasets import NyuDepth
from pe_spatial.detection.datasets import CocoInstances, LvisInstances, Objects365
from pe_spatial.features import open_features
from pe_spatial.segmentation import CocoPanoptic
from pe_spatial.tracking.datasets import Davis2017
from pe_spatial.tracking.frames import open_frames
from pe_spatial.training.checkpoint import BEST_POINTER, LAST_POINTER, find_best, find_last
from pe_spatial.training.config import load_config
from pe_spatial.training.config_files import find_config
from pe_spatial.training.launch import train
from pe_spatial.training.start import place_results

LEAVING = ["../secret.png", "/etc/passwd", "a/../../secret.png", "..", "a/.."]
NAMELESS = ["", None, 7, ["a.png"], "a\0.png"]


# --- data -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*LEAVING, *NAMELESS])
def test_a_name_that_leaves_its_folder_is_refused(name, tmp_path):
    with pytest.raises(AnnotationError, match=r"^file.json: image 3: the (file|name)") as error:
        file_below(tmp_path, name, "file.json: image 3")
    assert "\n" not in str(error.value)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "deep/a.png", "..a/b..png", "./a.png", "~a.png", "a//b.png"])
def test_a_name_within_it_is_taken(name, tmp_path):
    assert file_below(tmp_path, name, "") == tmp_path / name


@pytest.mark.parametrize("kind", ["safetensors", "npy", "tar"])
@pytest.mark.parametrize("name", LEAVING)
def test_features_lie_below_their_list(kind, name, tmp_path):
    entry = {"file_name": "a.png", "features": name, "key": "a"}
    listed = {"format_version": 1, "format": kind, "layers": ["layer_1"], "rule": {}, "features": [entry]}
    (tmp_path / "features.json").write_text(json.dumps(listed))
    with pytest.raises(AnnotationError, match="is outside its folder"):
        open_features(tmp_path)["a.png"]


def test_a_link_of_the_user_is_followed(tmp_path):
    save_photos(tmp_path / "elsewhere", a=(8, 8))
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    assert file_below(tmp_path / "images", "a.png", "").is_file()


@pytest.mark.parametrize(
    ("dataset", "key", "name"),
    [
        *((CocoInstances, "file_name", name) for name in LEAVING),
        (Objects365, "file_name", "images/v1/../secret.png"),
        (LvisInstances, "coco_url", "http://host/../secret.png"),
        (LvisInstances, "coco_url", "//secret.png"),
    ],
)
def test_coco_files(dataset, key, name, tmp_path):
    content = random_coco(0, images=3)
    arguments = write_coco(tmp_path, content)
    content["categories"] = [{**category, "frequency": "f"} for category in content["categories"]]
    for image in content["images"]:
        image["coco_url"] = f"http://host/images/{image['file_name']}"
    content["images"][1][key] = name
    (tmp_path / "instances.json").write_text(json.dumps(content))
    where = "a coco_url" if key == "coco_url" else f"image {content['images'][1]['id']}"
    with pytest.raises(AnnotationError, match=f"instances.json: {where}: .*a path below"):
        dataset(**arguments, pipeline=[])


@pytest.mark.parametrize("which", ["images", "annotations"])
def test_panoptic_files(which, tmp_path):
    content = {
        "images": [{"id": 5, "file_name": "1.jpg", "height": 4, "width": 4}],
        "annotations": [{"image_id": 5, "file_name": "1.png", "segments_info": []}],
        "categories": [{"id": 1, "name": "sky"}],
    }
    content[which][0]["file_name"] = "../1.png"
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    prefix = {"img_path": "images", "seg_map_path": "maps"}
    with pytest.raises(AnnotationError, match=r"panoptic.json: .*file_name is '../1.png', but must be a path below"):
        CocoPanoptic(ann_file="panoptic.json", data_root=str(tmp_path), data_prefix=prefix, pipeline=[])


@pytest.mark.parametrize("line", ["../a.jpg a.png", "a.jpg /../../a.png"])
def test_split_files_of_depth(line, tmp_path):
    (tmp_path / "split.txt").write_text(f"b.jpg b.png 1.0\n{line} 1.0\n")
    prefix = {"img_path": "images", "depth_path": "depth"}
    with pytest.raises(AnnotationError, match=r"split.txt:2: the file '.*' is outside its folder"):
        NyuDepth(ann_file="split.txt", data_root=str(tmp_path), data_prefix=prefix, pipeline=[])


def test_lists_of_videos(tmp_path, capsys):
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("..\n")
    with pytest.raises(AnnotationError, match=r"Davis2017, split val: the file '\.\.' is outside its folder"):
        Davis2017(str(tmp_path), "val")
    (tmp_path / "names.txt").write_text("..\n")
    arguments = ["--annotations", tmp_path, "--input", tmp_path, "--videos", tmp_path / "names.txt"]
    assert run_command("score", list(map(str, arguments))) == 2
    assert f"{tmp_path / 'names.txt'}: the file '..' is outside its folder" in capsys.readouterr().err


# --- tars -------------------------------------------------------------------------------------------------------------
def png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, name="a.png", kind=tarfile.REGTYPE, link=""):
    with tarfile.open(path, "w") as tar:
        for member, of_kind in (("first.png", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(member)
            info.type, info.linkname = of_kind, link
            content = png() if of_kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png"])
def test_members_that_leave_their_tar(name, tmp_path):
    tar = write_tar(tmp_path / "images.tar", name)
    with pytest.raises(UnreadableFile, match=f"images.tar: the member '{name}' points outside the tar"):
        read_images(tar)
    assert os.listdir(tmp_path) == ["images.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files(kind, tmp_path):
    tar = write_tar(tmp_path / "images.tar", kind=kind, link="/etc/passwd")
    with pytest.raises(UnreadableFile, match=r"images.tar: a.png is a link, a device or a file with holes"):
        read_images(tar)


def test_an_index_that_comes_with_a_tar_cannot_say_otherwise(tmp_path):
    tar = write_tar(tmp_path / "images.tar")
    honest = read_images(tar)
    index = Path(f"{tar}{INDEX_SUFFIX}")
    content = json.loads(index.read_text())
    content["members"][1][0] = "../../a.png"
    index.write_text(json.dumps(content))
    assert read_images(tar) == honest


# --- what is meant ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", ["*/../*.png", "in*/../../*.png", "**/../*.png"])
def test_patterns_do_not_leave_their_folder(pattern, tmp_path):
    save_photos(tmp_path / "inner", a=(8, 8))
    save_photos(tmp_path, outside=(8, 8))
    with pytest.raises(UserError, match=r"the pattern .* leaves its folder .* through"):
        resolve_sources(f"{tmp_path}/{pattern}")
    assert len(resolve_sources(f"{tmp_path}/inner/../*.png")) == 1  # before a wildcard it is the user's own path


def test_results_are_below_their_folder_whatever_the_inputs_are_called():
    names = ["../../a.png", "/etc/passwd", "a/../../../b.png", "..", ".", "", "../a.png", "x/./y.png"]
    for stem in output_stems(names).values():
        assert not stem.startswith("/")
        assert ".." not in stem.split("/")


def test_predictions_of_a_list_of_files_elsewhere_stay_in_the_output(tmp_path):
    save_photos(tmp_path / "elsewhere", a=(16, 16))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/all.txt").write_text("../elsewhere/a.png\n")
    checkpoint = save_segmenter(tmp_path / "model.pth")
    before = set(tmp_path.rglob("*"))
    arguments = ["--checkpoint", checkpoint, "--input", tmp_path / "lists/all.txt", "--output", tmp_path / "work/out"]
    assert run_command("predict", [*map(str, arguments), "--device", "cpu"]) == 0
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert written
    assert all(path.is_relative_to(tmp_path / "work/out") for path in written)


@pytest.mark.parametrize("source", ["..", "../", "."])
def test_a_video_has_a_name_of_its_own(source, tmp_path, monkeypatch):
    save_photos(tmp_path / "film", a=(8, 8), b=(8, 8))
    (tmp_path / "film/below").mkdir()
    monkeypatch.chdir(tmp_path / ("film" if source == "." else "film/below"))
    assert open_frames(source).name == "film"


# --- runs -------------------------------------------------------------------------------------------------------------
def test_pointers_name_files_of_their_own_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({}, tmp_path / "evil.pth")
    for name in ("../evil.pth", str(tmp_path / "evil.pth")):
        (run / LAST_POINTER).write_text(name)
        (run / BEST_POINTER).write_text(json.dumps({"file": name, "metric": "m", "score": 1.0, "iter": 1}))
        assert find_last(run) is None
        assert find_best(run) is None


@pytest.mark.parametrize("name", ["../student.pt", "/tmp/student.pt", "deep/student.pt", "", ".."])
def test_the_student_is_exported_into_the_run(name):
    with pytest.raises(OptionError, match=re.escape(f"name '{name}' must be the name of a file, without a folder")):
        StudentExportHook(name)


def test_results_of_metrics_go_below_the_run_or_where_the_command_line_says(tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr("pe_spatial.training.config.print_log", lambda text, **_: warned.append(text))
    write_strips(tmp_path / "data")
    text = f"_base_: [{find_config(CONFIG).resolve()}]\nval_evaluator: {{results_file: RESULTS}}\n"
    changes = overrides(tmp_path / "data", iterations=1)

    def placed(name, *more):
        (tmp_path / "mine.yaml").write_text(text.replace("RESULTS", str(name)))
        settings = load_config(tmp_path / "mine.yaml", [*changes, *more]).to_dict()
        place_results(settings, tmp_path / "run")
        return settings["val_evaluator"]["results_file"]

    assert placed("deep/found.json") == str(tmp_path / "run/deep/found.json")
    for name in (tmp_path / "bashrc", "../found.json"):
        assert placed(name) is None
        assert f"val_evaluator.results_file: {name} is outside" in warned.pop()
    said = tmp_path / "said.json"
    assert placed(tmp_path / "bashrc", f"val_evaluator.results_file={said}") == str(said)


def test_a_run_does_not_write_through_the_links_in_its_folder(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    for name in ("environment.json", "metrics.jsonl", "result.json", "last_checkpoint", "best_checkpoint.json"):
        (run / name).unlink()
        (run / name).symlink_to(tmp_path / "mine")
    (tmp_path / "mine").write_text("mine")
    train(toy_task.load(finished[0], run, "train_cfg.max_iters=7", "experiment_name=links"), "yes")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (run / "environment.json").is_file() and not (run / "environment.json").is_symlink()


# --- shards -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*LEAVING, *NAMELESS, "deep/a.safetensors", ".", "..\\a.safetensors"])
def test_an_index_of_shards_names_files_of_its_own_folder(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"vision_model.conv1.weight": name}}))
    for read in (ShardIndex, lambda path: find(path.parent), PLMVision.from_files):
        with pytest.raises(
            UserError, match=r"index.json: the file of vision_model.conv1.weight is .* must be the name of"
        ):
            read(index)
