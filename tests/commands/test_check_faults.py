"""The doctor finds every planted fault, says nothing of sound data, and comes to its end whatever is raised."""

import json
import shutil

import numpy as np
import pytest
import test_check
from mmengine.registry import DATASETS
from PIL import Image
from test_check import config_of, edit, rewrite

import pe_spatial.detection
import pe_spatial.segmentation  # noqa: F401 - registers its datasets
from pe_spatial.doctor import DatasetCheck, ExaminationOptions, Histogram, examine
from pe_spatial.doctor import check as doctor_check
from pe_spatial.training.config import load_config

short_collections, drawn, data, check = (
    test_check.short_collections,
    test_check.drawn,
    test_check.data,
    test_check.check,
)
FILE = "annotations/instances_train.json"


@pytest.fixture(scope="module")
def few(drawn, tmp_path_factory):
    """Four drawn pictures with their annotations."""
    folder = tmp_path_factory.mktemp("few")
    content = json.loads((drawn / FILE).read_text())
    content["images"] = content["images"][:4]
    shown = [image["id"] for image in content["images"]]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in shown]
    (folder / "images").mkdir()
    for image in content["images"]:
        shutil.copy(drawn / "images/train" / image["file_name"], folder / "images")
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def findings(folder, name="instances.json"):
    entry = {
        "type": "CocoInstances",
        "data_root": str(folder),
        "ann_file": name,
        "data_prefix": {"img_path": "images"},
        "pipeline": [{"type": "LoadImage"}, {"type": "LoadInstances"}, {"type": "PackSample"}],
    }
    (report,) = examine({"train_dataloader": {"dataset": entry}}, ExaminationOptions())
    return "\n".join(report.findings.lines())


# --- annotation files: the first entry of a list gets these fields ---------------------------------------------------
SOUND = [
    ("images", {"date_captured": 0}),
    ("images", {"date_captured": None, "license": "mine", "flickr_url": 7}),
    ("images", {"coco_url": ""}),
    ("categories", {"supercategory": None}),
    ("annotations", {"iscrowd": None}),
    ("annotations", {"attributes": {"occluded": False}, "score": "high"}),
]
FAULTY = [
    ("images", {"height": None}),
    ("images", {"height": -32}),
    ("images", {"width": "wide"}),
    ("images", {"height": float("nan")}),
    ("images", {"width": 33}),
    ("images", {"file_name": None}),
    ("images", {"file_name": ["a.jpg"]}),
    ("images", {"file_name": "absent.jpg"}),
    ("images", {"id": None}),
    ("annotations", {"bbox": None}),
    ("annotations", {"bbox": [1, 2, 3]}),
    ("annotations", {"bbox": [0, 0, float("inf"), 4]}),
    ("annotations", {"bbox": [200, 200, 9, 9]}),
    ("annotations", {"category_id": 99}),
    ("annotations", {"image_id": 99}),
    ("annotations", {"segmentation": [[float("nan"), 1, 9, 1, 9, 9]]}),
    ("annotations", {"segmentation": [[1, 1, float("inf"), 1, 9, 9]]}),
    ("annotations", {"segmentation": [[1, 1, 1e30, 1, 9, 9]]}),
    ("annotations", {"segmentation": [["a", "b", "c", "d", "e", "f"]]}),
    ("annotations", {"segmentation": {"size": [8, 8], "counts": [64]}}),
    ("annotations", {"segmentation": {"size": [32, 32], "counts": "0"}}),
    ("annotations", {"segmentation": {"size": [32, 32], "counts": [9]}}),
]


def changed(few, tmp_path, change):
    folder = shutil.copytree(few, tmp_path / "data")
    edit(folder / "instances.json", change)
    return folder


def named(cases):
    return pytest.mark.parametrize(("key", "fields"), cases, ids=[f"{key}-{fields}" for key, fields in cases])


@named(SOUND)
def test_a_field_that_nobody_reads_is_no_finding(few, tmp_path, key, fields):
    folder = changed(few, tmp_path, lambda content: content[key][0].update(fields))
    assert findings(folder) == findings(few) == ""


@named(FAULTY)
def test_a_faulty_field_is_an_error_that_names_the_file(few, tmp_path, key, fields):
    folder = changed(few, tmp_path, lambda content: content[key][0].update(fields))
    found = findings(folder)
    assert found.startswith("error: ")
    assert "instances.json" in found or ".jpg" in found
    assert ".py" not in found  # a place in the code is for what no message was written for


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, [], "text", 7])
def test_an_entry_of_another_kind_is_an_error(few, tmp_path, key, entry):
    found = findings(changed(few, tmp_path, lambda content: content[key].insert(1, entry)))
    assert found.startswith("error: the dataset cannot be loaded\n")
    assert "instances.json" in found
    assert ".py" not in found


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\x00\x01", b'{"images": []}', "{'a': 1}".encode("utf-16")]
)
def test_another_file_is_an_error(few, tmp_path, content):
    folder = shutil.copytree(few, tmp_path / "data")
    (folder / "instances.json").write_bytes(content)
    assert findings(folder).startswith("error: the dataset cannot be loaded\n")


# --- objects that contradict themselves, and objects that are left out ------------------------------------------------
def an_empty_mask(content):
    content["annotations"][0]["segmentation"] = {"size": [32, 32], "counts": [1024]}


def a_mask_elsewhere(content):
    content["annotations"][0].update(bbox=[2, 2, 8, 8], segmentation=[[20, 20, 30, 20, 30, 30, 20, 30]])


def a_mask_of_a_part(content):
    content["annotations"][0].update(bbox=[2, 2, 20, 20], segmentation=[[2, 2, 8, 2, 8, 8, 2, 8]])


def an_object_twice(content):
    content["annotations"].append({**content["annotations"][0], "id": 999})


def an_object_thrice(content):
    content["annotations"] += [{**content["annotations"][0], "id": number} for number in (998, 999)]


def boxes_without_area(content):
    for item in content["annotations"][:2]:
        item["bbox"][2] = 0


def all_crowds(content):
    for item in content["annotations"]:
        item["iscrowd"] = 1


ODD = [
    (an_empty_mask, "warning: masks without a pixel\n"),
    (a_mask_elsewhere, "warning: masks that do not fit their box\n"),
    (a_mask_of_a_part, "warning: masks that do not fit their box\n"),
    (an_object_twice, "2 times"),
    (an_object_thrice, "3 times"),
    (boxes_without_area, "2 boxes without area"),
    (all_crowds, "error: 4 of 4 images have no object"),
]


@pytest.mark.parametrize(("spoil", "message"), ODD, ids=[spoil.__name__ for spoil, _ in ODD])
def test_what_contradicts_itself_or_is_left_out_is_named(few, tmp_path, spoil, message):
    assert message in findings(changed(few, tmp_path, spoil))


def test_polygons_are_compared_with_their_boxes_too(few, tmp_path):
    folder = changed(few, tmp_path, a_mask_elsewhere)
    assert "masks that do not fit their box" in findings(folder)
    edit(folder / "instances.json", lambda content: content["annotations"][0].update(bbox=[20, 20, 10, 10]))
    assert findings(folder) == ""


# --- an examination comes to its end ----------------------------------------------------------------------------------
def test_all_depth_maps_refused_are_counted(data, check):
    for path in (data / "depth").rglob("*.png"):
        rewrite(path, lambda values: values[:, :20])
    code, out, err = check("depth", data, "--tiles", 2)
    assert code == 1
    assert "error: samples that the loaders refuse (15)\n" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("task", "folder", "suffix", "message"),
    [
        ("segmentation", "labels", "png", "error: files that cannot be read (15)\n"),
        ("tracking", "davis/JPEGImages", "jpg", "cannot be read"),
    ],
)
def test_all_files_unreadable_are_counted(data, check, task, folder, suffix, message):
    for path in (data / folder).rglob(f"*.{suffix}"):
        path.write_bytes(b"no picture")
    code, out, err = check(task, data, "--tiles", 2)
    assert code == 1
    assert message in out
    assert "Traceback" not in out + err


STAGES = ["concerns", "__init__", "inspect_annotations", "inspect_sample", "collect", "finish"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error", [KeyError("width"), MemoryError(), ZeroDivisionError("x\ny"), UnicodeError("surprise")]
)
def test_a_check_that_fails_is_a_finding(few, monkeypatch, stage, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(doctor_check, "_CHECKS", [doctor_check.InstanceCheck])

    class Sound(DatasetCheck):
        concerns = classmethod(lambda cls, dataset, record: True)

    type("Frail", (Sound,), {stage: fail})
    found = findings(few)
    assert type(error).__name__ in found
    assert "test_check_faults.py, line" in found
    assert found.count("error: ") == 1


@pytest.mark.parametrize("stage", ["get_data_info", "full_init", "__len__"])
def test_a_dataset_that_fails_is_a_finding(few, monkeypatch, stage):
    def fail(*_):
        raise KeyError("surprise")

    monkeypatch.setattr(DATASETS.get("CocoInstances"), stage, fail)
    assert "KeyError: 'surprise' (test_check_faults.py, line" in findings(few)


def test_a_loader_that_fails_is_counted(few, monkeypatch):
    def fail(*_):
        raise RuntimeError("surprise")

    monkeypatch.setattr("pe_spatial.data.loading.read_image", fail)
    assert "error: samples that the loaders refuse (4)\n    RuntimeError: surprise (" in findings(few)


def test_a_dataset_without_records_is_named(tmp_path):
    (report,) = examine({"train_dataloader": {"dataset": {"type": "NoSuchData"}}}, ExaminationOptions())
    assert "NoSuchData" in "\n".join(report.findings.lines())


def test_a_histogram_without_rows_is_a_head():
    assert len(list(Histogram("pixels", []).lines())) == 1


# --- sound data -------------------------------------------------------------------------------------------------------
# what may be said of sound data: it is true
TRUE = ("of the pixels have no label", "images have no object", "of the pixels are measured", "classes never occur")


@pytest.mark.parametrize("task", test_check.TASKS)
def test_sound_data_have_only_notes_that_are_true(task, drawn, tmp_path):
    config = load_config(config_of(task, tmp_path, drawn))
    for report in examine(config, ExaminationOptions()):
        for line in report.findings.lines():
            assert line.startswith("    ") or any(note in line for note in TRUE), line
        assert report.findings.count("error") == 0


def test_pictures_of_one_color_are_no_fault(few, tmp_path):
    folder = shutil.copytree(few, tmp_path / "data")
    path = next((folder / "images").iterdir())
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(path)
    assert "error" not in findings(folder)
