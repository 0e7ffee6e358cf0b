"""Recall by hand, against an independent count over the whole table of scores, and the formats of captions."""

import json

import numpy as np
import pytest
import torch

from pe_spatial.common.errors import AnnotationError, UnreadableFile
from pe_spatial.search.recall import read_captions, recall


def by_table(scores, positive, level):
    """The share of queries with a true positive among the `level` columns of the largest scores."""
    first = torch.topk(scores, min(level, scores.shape[1]), dim=1).indices
    return positive.gather(1, first).any(dim=1).double().mean().item()


def test_a_case_by_hand():
    """Three pictures on three axes; the second text is nearest to the wrong picture, and the last is a duplicate."""
    pictures = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    rows, kinds = np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0])  # text 3 equals text 0 and is of picture 2
    found = recall(pictures, texts, rows, kinds)
    # text 0 finds picture 0; 1 finds 0, wrong; 2 finds 2; 3 finds picture 0, right because text 0 is the same
    assert found["text_to_image"]["R@1"] == 3 / 4
    assert found["text_to_image"]["R@5"] == 1
    # picture 0 finds text 0; picture 1 text 1; picture 2 text 2
    assert found["image_to_text"]["R@1"] == 1
    # right pictures: 2 of 3 (texts 0 and 3), 1 of 3, 1 of 3; right texts: 2 of 4, 1 of 4, 3 of 4
    assert found["text_to_image"]["chance@1"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 2 / 3) / 4)
    assert found["image_to_text"]["chance@1"] == pytest.approx((2 / 4 + 1 / 4 + 3 / 4) / 3)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_a_count_over_the_whole_table(seed):
    """With several captions a picture, equal captions of several pictures, and pictures without any."""
    generator = np.random.default_rng(seed)
    pictures = generator.normal(size=(40, 6)).astype(np.float32)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    rows = generator.integers(30, size=100)  # the last ten have none
    kinds = generator.integers(70, size=100)
    texts = generator.normal(size=(70, 6)).astype(np.float32)[kinds]
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    positive = torch.zeros(100, 40, dtype=torch.bool)
    for text in range(100):
        for other in range(100):
            positive[text, rows[other]] |= bool(kinds[text] == kinds[other])
    scores = torch.from_numpy(texts @ pictures.T).double()
    found = recall(pictures, texts, rows, kinds)
    captioned = np.unique(rows)
    for level in (1, 5, 10):
        assert found["text_to_image"][f"R@{level}"] == pytest.approx(by_table(scores, positive, level))
        expected = by_table(scores.T[captioned], positive.T[captioned], level)
        assert found["image_to_text"][f"R@{level}"] == pytest.approx(expected)


def test_chance_is_what_random_vectors_have():
    generator = np.random.default_rng(0)
    rows, kinds = np.arange(60) // 2, np.arange(60)
    means = {direction: [] for direction in ("text_to_image", "image_to_text")}
    for _ in range(60):
        pictures, texts = (generator.normal(size=(n, 16)).astype(np.float32) for n in (30, 60))
        pictures, texts = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (pictures, texts))
        found = recall(pictures, texts, rows, kinds)
        for direction, values in means.items():
            values.append([found[direction]["R@1"], found[direction]["R@5"]])
    for direction, values in means.items():
        expected = [found[direction]["chance@1"], found[direction]["chance@5"]]
        assert np.mean(values, axis=0) == pytest.approx(expected, abs=0.03)


# --- files ------------------------------------------------------------------------------------------------------------
CAPTIONS = [("a.png", "a cat"), ("a.png", "a grey cat"), ("b/c.png", "two, or three dogs")]


def test_three_formats_say_the_same(tmp_path):
    coco = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b/c.png"}],
        "annotations": [
            {"image_id": image, "caption": text} for image, (_, text) in zip((7, 7, 3), CAPTIONS, strict=True)
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    (tmp_path / "names.json").write_text(json.dumps({"a.png": ["a cat", "a grey cat"], "b/c.png": CAPTIONS[2][1]}))
    (tmp_path / "table.csv").write_text('image,caption\na.png,a cat\na.png,a grey cat\nb/c.png,"two, or three dogs"\n')
    for name in ("coco.json", "names.json", "table.csv"):
        assert read_captions(tmp_path / name) == CAPTIONS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "[1]", "contains a list"),
        ("x.json", "{}", "has no captions"),
        ("x.json", '{"a.png": [3]}', "a caption of a.png is '3', not text"),
        ("x.json", '{"a.png": " "}', "a caption of a.png is empty"),
        ("x.json", '{"annotations": []}', "is not a file of COCO captions"),
        ("x.json", '{"images": [], "annotations": [{"image_id": 4, "caption": "x"}]}', r"1 captions .* not list \(4\)"),
        ("x.json", '{"images": [], "annotations": [{"image_id": 4}]}', "is not a file of COCO captions"),
        ("x.csv", "a.png\n", "row 1 has 1 cells .* but needs a file and its caption"),
        ("x.csv", "a.png,b,c\n", "row 1 has 3 cells"),
    ],
)
def test_captions_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_captions(tmp_path / name)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UnreadableFile, match="is not JSON"):
        read_captions(tmp_path / "x.json")
