import json
import os

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from pe_spatial.commands.shell import run_command
from pe_spatial.data import decode_mask
from pe_spatial.demo import datasets
from pe_spatial.demo.scenes import CLASSES, SEMANTIC_CLASSES, draw_scene, draw_video

ARGUMENTS = [
    "--images",
    "12",
    "--image-size",
    "64",
    "--seed",
    "4",
    "--videos",
    "2",
    "--frames",
    "3",
    "--video-size",
    "48",
    "64",
]


def run(out, *more):
    return run_command("demo", ["--output", str(out), *ARGUMENTS, "--no-photographs", *more])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "data"
    assert run(out) == 0
    return out


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_written_coco_files_hold_the_scenes(written):
    seen = []
    for split, count in (("train", 10), ("val", 2)):
        coco = COCO(written / "annotations" / f"instances_{split}.json")
        assert len(coco.imgs) == count
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        assert min(coco.anns) == 1 and min(coco.cats) == 1 + SEMANTIC_CLASSES.index(CLASSES[0])
        for image_id, entry in coco.imgs.items():
            scene = draw_scene([4, 0, image_id - 1], 64)
            with Image.open(written / "images" / split / entry["file_name"]) as image:
                assert np.abs(np.asarray(image).astype(int) - scene.image).mean() < 6  # JPEG
            annotations = coco.loadAnns(coco.getAnnIds(image_id))
            assert len(annotations) == len(scene.labels)
            for annotation, label, box, mask in zip(annotations, scene.labels, scene.boxes, scene.masks, strict=True):
                x, y, width, height = annotation["bbox"]
                assert [x, y, x + width, y + height] == box.tolist()
                assert coco.loadCats(annotation["category_id"])[0]["name"] == CLASSES[label]
                assert annotation["area"] == mask.sum()
                assert (coco.annToMask(annotation).astype(bool) == mask).all()
                assert (decode_mask(annotation["segmentation"], (64, 64)) == mask).all()
            seen.append(image_id)
    assert sorted(seen) == list(range(1, 13))


def test_label_maps_and_depth_are_those_of_the_scenes(written):
    scene = draw_scene([4, 0, 5], 64)
    with Image.open(written / "labels" / "val" / "000006.png") as labels:
        assert labels.mode == "P"
        assert (np.asarray(labels) == scene.semantic).all()
    content = yaml.safe_load((written / "classes.yaml").read_text())
    assert list(content["classes"]) == list(SEMANTIC_CLASSES)
    assert content["images"]["val"] == "images/val"
    assert content["labels"]["val"] == "labels/val"
    with Image.open(written / "depth" / "val" / "000006.png") as depth:
        assert depth.mode.startswith("I")
        assert np.allclose(np.asarray(depth) / 1000, scene.depth, atol=0.00051)


def test_panoptic_segments_are_the_objects_and_the_visible_stuff(written):
    scene = draw_scene([4, 0, 5], 64)
    content = json.loads((written / "annotations" / "panoptic_val.json").read_text())
    annotation = next(a for a in content["annotations"] if a["image_id"] == 6)
    with Image.open(written / "panoptic" / "val" / annotation["file_name"]) as image:
        ids = np.asarray(image).astype(int) @ [1, 256, 65536]
    names = {category["id"]: category["name"] for category in content["categories"]}
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        assert mask.sum() == segment["area"]
        assert {SEMANTIC_CLASSES[label] for label in scene.semantic[mask]} == {names[segment["category_id"]]}
    objects = [n for n in range(1, len(scene.labels) + 1) if (ids == n).any()]
    assert all(((ids == n) == scene.masks[n - 1]).all() for n in objects)
    assert set(np.unique(ids)) == {segment["id"] for segment in annotation["segments_info"]}


def test_videos_have_the_layout_of_davis(written):
    root = written / "davis"
    names = (root / "ImageSets" / "2017" / "val.txt").read_text().split()
    assert names == ["shapes-01", "shapes-02"]
    for number, name in enumerate(names):
        for time, scene in enumerate(draw_video([4, 1, number], (48, 64), 3)):
            with Image.open(root / "Annotations" / "480p" / name / f"{time:05d}.png") as ids:
                assert ids.mode == "P"
                assert (np.asarray(ids) == scene.ids).all()
            with Image.open(root / "JPEGImages" / "480p" / name / f"{time:05d}.jpg") as image:
                assert image.size == (64, 48)


def test_equal_arguments_give_equal_bytes(written, tmp_path):
    assert run(tmp_path / "again") == 0
    assert files(tmp_path / "again") == files(written)


def test_a_complete_dataset_is_left_alone(written, capsys):
    marker = written / "demo.json"
    before = os.stat(written / "images").st_mtime_ns, marker.read_bytes()
    assert run(written) == 0
    assert "complete already" in capsys.readouterr().out
    assert (os.stat(written / "images").st_mtime_ns, marker.read_bytes()) == before


def test_other_contents_are_refused_and_kept(tmp_path, capsys):
    out = tmp_path / "data"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    assert run(out, "--formats", "coco") == 2
    assert "--force" in capsys.readouterr().err
    assert files(out) == {"mine.txt": b"precious"}
    assert run(out, "--formats", "coco", "--force") == 0
    assert (out / "mine.txt").read_text() == "precious"
    assert not (out / "depth").exists()
    # other arguments replace the folders of the first dataset, and only with --force
    other = ["--output", str(out), "--images", "6", "--image-size", "32", "--formats", "coco"]
    assert run_command("demo", other) == 2
    assert run_command("demo", [*other, "--force"]) == 0
    assert len(list((out / "images" / "train").iterdir())) == 5
    assert json.loads((out / "demo.json").read_text())["size"] == 32


def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    out = tmp_path / "data"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(datasets, "add_to_coco", killed)
        assert run(out, "--formats", "coco") == 130
    assert not out.exists()
    assert run(out, "--formats", "coco") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "5"], "6 or more"),
        (["--image-size", "16"], "32 pixels or more"),
        (["--formats", "coco,voc"], "'voc' is not one of coco"),
        (["--frames", "0"], "--frames: 0 is too small; give 1"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run_command("demo", ["--output", str(tmp_path / "data"), *arguments])
    assert message in capsys.readouterr().err
