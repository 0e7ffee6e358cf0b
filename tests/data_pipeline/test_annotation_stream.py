"""The lists of a JSON file, piece by piece, are what Python's parser reads."""

import json
import random

import pytest

from pe_spatial.common.errors import AnnotationError
from pe_spatial.data.annotations import json_stream
from pe_spatial.data.annotations.entries import Category, decode
from pe_spatial.data.annotations.json_files import read_members

KEYS = ("images", "annotations")
NASTY = ['a"b', "c\\", '"}],[{"', "é漢\U0001f600", "{", "]", '\\\\"', "\n\t", ""]


def random_value(rng, depth=0):
    kind = rng.randrange(6 if depth < 3 else 4)
    if kind == 4:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5:
        return {rng.choice(NASTY) + str(n): random_value(rng, depth + 1) for n in range(rng.randrange(4))}
    return [rng.randrange(-99, 99), rng.random() * 1e5, rng.choice(NASTY), rng.choice([None, True, False])][kind]


def random_file(rng):
    entries = {key: [{"id": n, "x": random_value(rng)} for n in range(rng.randrange(7))] for key in KEYS}
    others = {"info": random_value(rng), "licenses": [random_value(rng)], "nested": {"images": [{"id": -1}]}}
    members = [*entries.items(), *others.items()]
    rng.shuffle(members)
    return dict(members)


@pytest.mark.parametrize("window", [16, 64, 1 << 20])
@pytest.mark.parametrize("seed", range(10))
def test_the_lists_are_those_of_a_parser_of_the_whole(tmp_path, monkeypatch, seed, window):
    monkeypatch.setattr(json_stream, "WINDOW", window)
    rng = random.Random(seed)
    content = random_file(rng)
    text = json.dumps(content, indent=rng.choice([None, 0, 2]), ensure_ascii=rng.random() < 0.5)
    path = tmp_path / "file.json"
    path.write_bytes(rng.choice([b"", b"\xef\xbb\xbf", b" \n"]) + text.encode() + b"\n")
    found = {key: [] for key in KEYS}
    for piece in read_members(path, KEYS, "COCO"):
        found[piece.key] += json.loads(piece.text)
    assert found == {key: content[key] for key in KEYS}


@pytest.mark.parametrize("window", [16, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "bare list instead of a COCO dictionary"),
        (b'{"images": []}', "no list of annotations .it has: images"),
        (b'{"images": [], "annotations": {}}', "no list of annotations"),
        (b'{"images": [{}], "annotations": [{}, {"id"', "not JSON"),
        (b'{"images": [{}, ], "annotations": []}', "not JSON"),
        (b'{"images": [{} {}], "annotations": []}', "not JSON"),
        (b'{"images": [], "annotations": []} {}', "not JSON"),
        ('{"images": []}'.encode("utf-16"), "no list of annotations"),
        (b'{"a": ' + b"[" * 100_000, "not JSON"),
    ],
)
def test_another_content_is_named(tmp_path, monkeypatch, text, message, window):
    monkeypatch.setattr(json_stream, "WINDOW", window if len(text) < 1000 else 1 << 20)
    path = tmp_path / "file.json"
    path.write_bytes(text)
    with pytest.raises(AnnotationError, match=message) as caught:
        for piece in read_members(path, KEYS, "COCO"):
            decode(Category, piece.text.replace(b"{}", b'{"id": 1, "name": "a"}'), str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_read(tmp_path):
    content = {"images": [{"id": 1}], "annotations": []}
    (tmp_path / "file.json").write_text(json.dumps(content), "utf-16")
    pieces = read_members(tmp_path / "file.json", KEYS, "COCO")
    assert {piece.key: json.loads(piece.text) for piece in pieces} == content


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match="no such annotation file"):
        list(read_members(tmp_path / "none.json", KEYS, "COCO"))
