"""YOLO: the rules of data.yaml and of label files, and what is said where they are broken."""

import shutil

import pytest
from format_scenes import TRUTH, copy_of, objects_of
from PIL import Image

from pe_spatial.common.errors import AnnotationError, UnreadableFile, UserError
from pe_spatial.data.formats import choose, read_instances
from pe_spatial.data.formats.yolo import label_path

ROW = "0 0.25 0.5 0.25 0.5"
YAML, LABEL = "data.yaml", "labels/train/a.txt"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LABEL, ROW, "0 0.25 0.5 0.25", r"a\.txt:1: 4 columns; a box needs 5"),
        (LABEL, ROW, ROW + " 0.9", r"a\.txt:1: 6 columns are a prediction"),
        (LABEL, ROW, ROW + " 0.1 0.2 0.3", r"a\.txt:1: 8 columns; .* a polygon 7, 9, 11"),
        (LABEL, ROW, "2" + ROW[1:], r"a\.txt:1: class 2 is not one of 0 to 1; names lists 2 classes"),
        (LABEL, ROW, "-1" + ROW[1:], "class -1 is not one of"),
        (LABEL, ROW, "0.5" + ROW[1:], "class 0.5 is not one of"),
        (LABEL, ROW, "cat" + ROW[1:], "class cat is not one of"),
        (LABEL, ROW, "0 8 12 8 12", r"a\.txt:1: coordinate 8 is outside 0…1; these look like pixels"),
        (LABEL, ROW, "0 1.25 0.5 0.25 0.5", "coordinate 1.25 is outside 0…1; correct the line"),
        (LABEL, ROW, "0 -0.25 0.5 0.25 0.5", "coordinate -0.25 is outside"),
        (LABEL, ROW, "0 nan 0.5 0.25 0.5", "'nan' is not a number"),
        (LABEL, ROW, "0 inf 0.5 0.25 0.5", "'inf' is not a number"),
        (LABEL, ROW, "0 1e400 0.5 0.25 0.5", "coordinate|no number"),
        (LABEL, ROW, "0 0,25 0,5 0,25 0,5", "'0,25' is not a number; write numbers with a decimal point"),
        (LABEL, ROW, "0,0.25,0.5,0.25,0.5", "1 columns|class 0,0.25"),
        (LABEL, ROW, "0 0.25 0.5 0 0.5", "a box of width 0 and height 0.5"),
        (YAML, "[cat, dog]", "[cat, cat]", "'cat' is empty or used twice"),
        (YAML, "[cat, dog]", "[cat, '']", "'' is empty or used twice"),
        (YAML, "[cat, dog]", "{0: cat, 2: dog}", "names has the number 2; number the classes 0, 1"),
        (YAML, "[cat, dog]", "{0: cat, 0: dog}", "0 is defined twice"),
        (YAML, "[cat, dog]", "cat", "names is 'cat'; write a list"),
        (YAML, "[cat, dog]", "[cat, [dog]]", r"the name of class 1 is \['dog'\]"),
        (YAML, "nc: 2", "nc: 3", "nc is '3', but there are 2 names"),
        (YAML, "images/train", "images/tarin", "train is 'images/tarin': no such folder or list"),
        (YAML, "images/train", "../../secret", "is outside the dataset"),
        (YAML, "images/train", "images/../../../x", "is outside the dataset"),
        (YAML, "path: .", "path: [a]", r"path is \['a'\]"),
        (YAML, "names:", "names: [", "not YAML"),
        (YAML, "nc: 2", "kpt_shape: 17", "kpt_shape is '17'"),
    ],
)
def test_faults_are_named(damaged, file, old, new, message):
    folder = damaged("yolo_boxes", file, old, new)
    with pytest.raises(UserError, match=message) as error:
        choose(folder, "yolo").load("train")
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_text_in_another_encoding_is_named(damaged):
    folder = damaged("yolo_boxes", YAML, "dog", "chienne étoilée", encoding="latin-1")
    with pytest.raises(UnreadableFile, match=r"data\.yaml:6: byte 0xe9 is not UTF-8; save"):
        read_instances(folder, "train")


@pytest.mark.parametrize("names", ["[no, 010]", "{1: '010', 0: no}", "[no, 010] # comment"])
def test_names_are_the_text_that_stands_there(damaged, names):
    folder = damaged("yolo_boxes", YAML, "[cat, dog]", names)
    assert [category["name"] for category in read_instances(folder, "train").categories] == ["no", "010"]


def test_pictures_without_labels_have_no_objects_and_are_counted(damaged):
    folder = damaged("yolo_boxes", LABEL, "", "")
    for name in ("empty", "absent"):
        shutil.copy(folder / "images/train/a.jpg", folder / f"images/train/{name}.jpg")
    (folder / "labels/train/empty.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    (folder / "labels/train/orphan.txt").write_text(ROW)
    part = read_instances(folder, "train")
    assert objects_of(part) == {"a": [], "absent": [], "empty": []}
    assert part.notes == (
        "pictures without label file, taken as without objects: 1 (images/train/absent.jpg)",
        "label files without picture, left out: 1 (labels/train/orphan.txt)",
    )


def test_a_data_set_without_any_label_file_is_a_mistake(tmp_path):
    folder = copy_of("yolo_boxes", tmp_path)
    (folder / "labels").rename(folder / "Labels")
    with pytest.raises(
        AnnotationError, match="none of the 1 pictures of train has a label file; .* labels/train/a.txt"
    ):
        read_instances(folder, "train")


def test_two_pictures_cannot_share_a_label_file(tmp_path):
    folder = copy_of("yolo_boxes", tmp_path)
    Image.new("RGB", (32, 24)).save(folder / "images/train/a.png")
    with pytest.raises(AnnotationError, match=r"a\.jpg and images/train/a\.png share the label file"):
        read_instances(folder, "train")


def test_lines_that_stand_twice_are_counted(damaged):
    part = read_instances(damaged("yolo_boxes", LABEL, ROW, f"{ROW}\n{ROW}"), "train")
    assert len(part.annotations) == 3
    assert part.notes[0].startswith("lines that stand twice, kept: 1")


def test_boxes_and_polygons_may_stand_in_one_file(damaged):
    part = read_instances(damaged("yolo_boxes", LABEL, ROW, "0 0 0 0.5 0 0.25 1"), "train")
    assert part.annotations[0]["segmentation"] == [[0, 0, 16, 0, 8, 24]]
    assert part.annotations[0]["area"] == 16 * 24 / 2
    assert "segmentation" not in part.annotations[1]


def test_keypoints_behind_boxes_are_left_out_and_counted(damaged):
    folder = damaged("yolo_boxes", YAML, "nc: 2", "kpt_shape: [2, 3]")
    (folder / LABEL).write_text(f"{ROW} 0.1 0.1 2 0.2 0.2 2\n")
    part = read_instances(folder, "train")
    assert objects_of(part) == {"a": TRUTH["a"][:1]}
    assert part.notes[0].startswith("keypoints left out, boxes kept: 1")


def test_a_path_that_is_not_here_is_replaced_aloud_and_one_elsewhere_is_said(damaged, tmp_path):
    folder = damaged("yolo_boxes", YAML, "path: .", "path: /home/me/pets")
    part = read_instances(folder, "train")
    assert objects_of(part) == {"a": TRUTH["a"]}
    assert "path '/home/me/pets' is not a folder here; read from" in part.notes[0]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / YAML, tmp_path / "elsewhere" / YAML)
    text = (folder / YAML).read_text().replace("/home/me/pets", str(folder))
    (tmp_path / "elsewhere" / YAML).write_text(text)
    part = read_instances(tmp_path / "elsewhere", "train")
    assert objects_of(part) == {"a": TRUTH["a"]}
    assert f"read from {folder}, which path names" in part.notes[0]


def test_lists_name_pictures_of_here_or_elsewhere_but_not_outside(damaged):
    folder = damaged("yolo_lists", "train.txt", "C:\\Users\\me\\pets\\images\\a.jpg", "../outside/a.jpg")
    with pytest.raises(AnnotationError, match=r"train\.txt:1: the path '\.\./outside/a\.jpg' is outside"):
        read_instances(folder, "train")
    (folder / "train.txt").write_text("images/a.jpg\n\nimages/c.jpg\n")
    with pytest.raises(AnnotationError, match=r"train\.txt:3: 'images/c\.jpg' is not in"):
        read_instances(folder, "train")
    (folder / "train.txt").write_text(f"{folder}/images/a.jpg\nimages\\a.jpg\n")
    part = read_instances(folder, "train")
    assert objects_of(part) == {"a": TRUTH["a"]}
    assert part.notes[0] == "pictures listed twice, taken once: 1"


def test_aliases_that_grow_without_bound_are_refused_in_a_line(damaged):
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
    folder = damaged("yolo_boxes", YAML, "names: [cat, dog]", f"l0: &l0 [a, b]\n{levels}names: [*l11]\ntest: *l11\n")
    with pytest.raises(AnnotationError, match="anchors .* expand to more than") as error:
        read_instances(folder, "train")
    assert len(str(error.value)) < 1000


def test_names_beside_the_labels_and_a_description_in_a_folder_are_found(tmp_path):
    folder = copy_of("yolo_label_studio", tmp_path)
    (folder / "classes.txt").rename(folder / "labels/classes.txt")  # as labelImg does
    assert objects_of(read_instances(folder)) == TRUTH
    (folder / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(AnnotationError, match="list different classes; keep one of them"):
        read_instances(folder)
    copy_of("yolo_boxes", tmp_path / "above")
    assert objects_of(read_instances(tmp_path / "above", "val")) == {"b": TRUTH["b"]}


def test_labels_without_names_ask_for_them(tmp_path):
    folder = copy_of("yolo_label_studio", tmp_path)
    (folder / "classes.txt").unlink()
    with pytest.raises(AnnotationError, match="without class names; write data.yaml with names, or classes.txt"):
        read_instances(folder)


def test_a_damaged_picture_is_named(tmp_path):
    folder = copy_of("yolo_boxes", tmp_path)
    (folder / "images/train/a.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableFile, match=r"a\.jpg cannot be read"):
        read_instances(folder, "train")


@pytest.mark.parametrize(
    ("picture", "labels"),
    [
        ("images/train/1.jpg", "labels/train/1.txt"),
        ("images/images/1.jpg", "images/labels/1.txt"),
        ("train/images/a.b.png", "train/labels/a.b.txt"),
        ("my_images/1.jpg", "my_images/1.txt"),
        ("1.jpg", "1.txt"),
    ],
)
def test_where_labels_lie(picture, labels):
    assert label_path(picture) == labels
