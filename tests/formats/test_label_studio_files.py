"""Label Studio's JSON: percents, addresses of pictures, several annotators, and what is refused."""

import json

import pytest
from format_scenes import TRUTH, copy_of, objects_of

from pe_spatial.common.errors import AnnotationError, UserError
from pe_spatial.data.formats import read_instances


@pytest.fixture
def edited(tmp_path):
    """Reads the dataset with its first task edited."""

    def make(edit):
        folder = copy_of("label_studio", tmp_path)
        path = folder / "project-1.json"
        tasks = json.loads(path.read_text())
        edit(tasks[0])
        path.write_text(json.dumps(tasks))
        return read_instances(folder)

    return make


def changed(task, **entries):
    task["annotations"][0]["result"][0].update(entries)


def value(task, **entries):
    task["annotations"][0]["result"][0]["value"].update(entries)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda task: value(task, rotation=12.5), r"task 10: result 1: the box is rotated by 12\.5 degrees"),
        (lambda task: changed(task, image_rotation=90), "rotated by 90 degrees"),
        (
            lambda task: changed(task, type="brushlabels"),
            "type brushlabels is neither rectanglelabels nor polygonlabels",
        ),
        (lambda task: changed(task, type="ellipselabels"), "type ellipselabels is neither"),
        (lambda task: changed(task, type="keypointlabels"), "type keypointlabels is neither"),
        (lambda task: changed(task, type="rectangle"), "type rectangle is neither"),
        (
            lambda task: value(task, rectanglelabels=["cat", "dog"]),
            r"rectanglelabels is \['cat', 'dog'\]; an object must have one",
        ),
        (lambda task: value(task, rectanglelabels=[]), r"rectanglelabels is \[\]"),
        (lambda task: value(task, x="4"), "its value has no finite numbers"),
        (lambda task: value(task, width=0), "are not percents of a box in the picture"),
        (lambda task: value(task, x=90, width=25), "are not percents of a box in the picture"),
        (lambda task: changed(task, type="polygonlabels"), "polygonlabels is None"),
        (lambda task: changed(task, original_width=24), r"gives height 24 and width 24, but .*a\.jpg has 24 and 32"),
        (lambda task: changed(task, original_width="32"), "original_height and original_width are"),
        (lambda task: task.update(annotations={}), "annotations is not a list"),
        (lambda task: task["annotations"][0].update(result=None), "result is not a list"),
        (lambda task: task["annotations"].append(task["annotations"][0]), "2 annotations, 0 of them marked as ground"),
    ],
)
def test_faults_are_named(edited, edit, message):
    with pytest.raises(UserError, match=message) as error:
        edited(edit)
    assert "\n" not in str(error.value) and "project-1.json" in str(error.value)


def test_polygons_are_taken(edited):
    points = [[25, 25], [50, 25], [50, 75], [25, 75]]
    corners = {"points": points, "polygonlabels": ["cat"]}
    part = edited(lambda task: changed(task, type="polygonlabels", value=corners))
    assert part.annotations[0]["segmentation"] == [[8, 6, 16, 6, 16, 18, 8, 18]]
    assert part.annotations[0]["bbox"] == [8, 6, 8, 12]


def test_one_of_several_annotators_counts_if_marked_and_skipped_work_does_not(edited):
    def edit(task):
        empty = {"was_cancelled": False, "ground_truth": False, "result": []}
        task["annotations"][0]["ground_truth"] = True
        task["annotations"] += [empty, {**empty, "was_cancelled": True}]

    part = edited(edit)
    assert objects_of(part) == TRUTH
    assert part.notes[0].startswith("annotations that were skipped or replaced, left out: 1 (")


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=pets/images/a.jpg",
        "http://localhost:8080/data/upload/1/a.jpg?token=1",
        "s3://bucket/pets/a.jpg",
        "C:\\pets\\a.jpg",
    ],
)
def test_pictures_are_found_by_the_end_of_their_address(edited, address):
    part = edited(lambda task: task.update(file_upload="", data={"image": address}))
    assert objects_of(part) == TRUTH


def test_what_is_no_object_or_has_no_picture_is_counted(edited):
    def edit(task):
        choice = {"type": "choices", "value": {"choices": ["day"]}}
        task["annotations"][0]["result"].append(choice)

    part = edited(edit)
    assert objects_of(part) == TRUTH
    assert part.notes[0].startswith("results of type choices, left out: 1")
    part = edited(lambda task: task.update(file_upload="", data={"image": "/data/x.jpg"}))
    assert objects_of(part) == {"b": TRUTH["b"]}
    assert part.notes[0].startswith("tasks without picture here, left out: 1")


def test_a_damaged_file_is_named(tmp_path):
    folder = copy_of("label_studio", tmp_path)
    path = folder / "project-1.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(AnnotationError, match=r"project-1\.json: not JSON"):
        read_instances(folder)
