"""Which class a file belongs to, and how the score is counted."""

from pathlib import Path

import pytest

from pe_spatial.common.errors import AnnotationError
from pe_spatial.common.sources import Entry
from pe_spatial.zero_shot.truth import match_classes, measure, of_folders, read_list


def test_a_list_in_kinetics_form(tmp_path):
    path = tmp_path / "val.csv"
    path.write_text('video,class\na.mp4,high jump\n"sub/b, c.mp4","run, walk"\na.mp4,high jump\n')
    assert read_list(path) == {tmp_path / "a.mp4": "high jump", tmp_path / "sub/b, c.mp4": "run, walk"}
    path.write_text("a.mp4,high jump\n")
    assert read_list(path) == {tmp_path / "a.mp4": "high jump"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.mp4\n", r"row 1 has 1 cells \('a.mp4'\), but needs a file and its class"),
        ("a.mp4,run\nb.mp4,\n", "row 2 has 2 cells"),
        ("a.mp4,run\na.mp4,jump\n", "a.mp4 has the classes 'run' and 'jump'"),
        ("video,class\n", "lists no files"),
    ],
)
def test_bad_lists_are_named(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_list(tmp_path / "list.csv")


def entries(*names):
    return [Entry(Path("data", name), "image", name) for name in names]


def test_folders_are_classes():
    found = of_folders(entries("cat/1.png", "fire truck/deep/2.png"))
    assert found == {Path("data/cat/1.png"): "cat", Path("data/fire truck/deep/2.png"): "fire truck"}
    with pytest.raises(AnnotationError, match=r"1 files are not in the folder of a class \(3.png\)"):
        of_folders(entries("cat/1.png", "3.png"))


def test_names_are_matched_or_in_their_order():
    assert match_classes(["dog", "cat", "dog"], ["cat", "dog", "cow"]) == {"dog": 1, "cat": 0}
    assert match_classes(["n02", "n01"], ["tench", "goldfish"]) == {"n01": 0, "n02": 1}
    assert match_classes(["missile"], ["missile", "x", "missile"]) == {"missile": 0}
    with pytest.raises(AnnotationError, match=r"1 of the classes .* not in --classes \(dig\); .*did you mean 'dog'"):
        match_classes(["cat", "dig"], ["cat", "dog"])
    with pytest.raises(AnnotationError, match="2 of the classes"):
        match_classes(["n01", "n02"], ["tench", "goldfish", "shark"])


def test_the_score_by_hand():
    score = measure({0: [0, 0, 0, 1], 2: [4], 1: [5, 0]}, ["a", "b", "c"])
    assert score["files"] == 7
    assert score["top1"] == pytest.approx(4 / 7)
    assert score["top5"] == pytest.approx(6 / 7)
    assert score["mean_per_class"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    assert [row["name"] for row in score["classes"]] == ["a", "b", "c"]


def test_all_right_and_all_wrong():
    assert measure({0: [0], 1: [0]}, ["a", "b"])["mean_per_class"] == 1
    assert measure({0: [9], 1: [9]}, ["a", "b"])["top5"] == 0
