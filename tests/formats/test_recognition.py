"""What lies in a folder is recognized in one way, or said to be none or several; every format says the same."""

import json
import os
import shutil

import pytest
import torch
from format_scenes import BOXES, FORMATS, TRUTH, copy_of, objects_of, read_all

import pe_spatial.depth  # noqa: F401 - registers its datasets
import pe_spatial.segmentation  # noqa: F401
import pe_spatial.tracking  # noqa: F401
from pe_spatial.common.errors import AnnotationError, OptionError, UserError
from pe_spatial.data import decode_mask, encode_masks
from pe_spatial.data.formats import choose, read_instances, recognize
from pe_spatial.detection.average_precision import average_precision

MAPS = {
    "masks_described": ("masks", {"train": 1, "val": 1}),
    "panoptic": ("panoptic", {"val": 2}),
    "depth_png": ("depth", {"all": 2}),
    "depth_npy": ("depth", {"all": 2}),
    "video": ("video", {"all": 4}),
    "video_davis": ("video", {"val": 4}),
    "video_youtube": ("video", {"valid": 4}),
}


def test_every_folder_of_the_test_data_is_tested():
    folders = {path.name for path in FORMATS.iterdir() if path.is_dir()}
    assert folders == {*BOXES, *MAPS, *(f"masks_{kind}" for kind in ("ids", "colors", "binary", "cvat"))}
    assert sum(path.stat().st_size for path in FORMATS.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("name", BOXES)
def test_every_format_says_the_same(name):
    parts = read_all(name)
    found = objects_of(*parts.values())
    expected = TRUTH
    if name.startswith("object_masks"):
        expected = {stem: [("object", box) for _, box in entries] for stem, entries in TRUTH.items()}
    assert found == expected
    for part in parts.values():
        assert [category["name"] for category in part.categories] == sorted(
            {n for e in expected.values() for n, _ in e}
        )
        assert {(image["height"], image["width"]) for image in part.images} == {(24, 32)}
        assert all((part.image_root / image["file_name"]).is_file() for image in part.images)
        assert all(type(value) is float for a in part.annotations for value in (*a["bbox"], a["area"]))
        assert [a["area"] for a in part.annotations] == [a["bbox"][2] * a["bbox"][3] for a in part.annotations]
        json.dumps(part.as_coco())


@pytest.mark.parametrize("name", BOXES)
def test_truth_fed_back_as_detections_is_perfect(name):
    for part in read_all(name).values():
        ids = [category["id"] for category in part.categories]
        images = [image["id"] for image in part.images]
        for kind, key in (("bbox", "bbox"), ("segm", "segmentation")):
            if not all(key in a for a in part.annotations):
                continue
            rows = [{**a, "score": 1.0} for a in part.annotations]
            if kind == "segm":
                masks = [torch.from_numpy(decode_mask(a["segmentation"], (24, 32))) for a in part.annotations]
                rows = [
                    {**row, "segmentation": rle}
                    for row, rle in zip(rows, encode_masks(torch.stack(masks)), strict=True)
                ]
            wanted = ("image_id", "category_id", "score", key)
            rows = [{name: row[name] for name in wanted} for row in rows]
            curves = average_precision(part.as_coco(), rows, kind, images, ids)
            assert curves.summary()["mAP"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", BOXES)
def test_one_reading_is_found_and_described(name):
    splits, format_name = BOXES[name]
    (reading,) = recognize(FORMATS / name, format_name)
    assert list(reading.splits) == splits
    text = "\n".join(reading.describe())
    assert all(f"{split}: " in text for split in splits)
    counts = ["1 images, 2 objects", "1 images, 1 objects"] if len(splits) == 2 else ["2 images, 3 objects"]
    assert all(count in text for count in counts)


@pytest.mark.parametrize("name", MAPS)
def test_a_dataset_of_the_project_reads_what_has_no_boxes(name):
    from mmengine.registry import DATASETS

    reading = choose(FORMATS / name)
    format_name, counts = MAPS[name]
    assert (reading.format, dict(reading.pictures)) == (format_name, counts)
    with pytest.raises(OptionError, match="no boxes"):
        reading.instances()
    for split, config in reading.datasets.items():
        extra = {"depth_scale": 0.001} if name == "depth_png" else {}
        dataset = DATASETS.build({**config, **extra})
        is_video = format_name == "video"
        frames = sum(len(dataset[n]["data_samples"].frame_paths) for n in range(len(dataset))) if is_video else 0
        assert (frames if is_video else len(dataset)) == counts[split]


@pytest.mark.parametrize(
    ("name", "about", "advice"),
    [
        ("masks_ids", "class ids", "- class_2"),
        ("masks_colors", "colors", "label_stem_end: _mask"),
        ("masks_binary", "0/255", "save objects with the value 1"),
        ("masks_cvat", "labelmap.txt", "cat:"),
    ],
)
def test_label_maps_that_nothing_describes_get_a_proposal_that_works(name, about, advice, tmp_path):
    folder = copy_of(name, tmp_path)
    reading = choose(folder)
    assert about in reading.about
    assert advice in reading.advice
    (folder / "data.yaml").write_text(reading.advice.partition("it begins with\n")[2])
    again = choose(folder)
    assert again.splits == reading.splits and again.pictures == reading.pictures
    from mmengine.registry import DATASETS

    assert len(DATASETS.build(again.datasets[again.splits[0]])) == again.pictures[again.splits[0]]


def test_several_readings_are_an_error_that_lists_them(tmp_path):
    folder = copy_of("coco", tmp_path)
    shutil.copytree(FORMATS / "labelme", folder, dirs_exist_ok=True)
    with pytest.raises(
        AnnotationError, match=r"2 ways: COCO .*--format coco.*; LabelMe .*--format labelme.*choose with"
    ):
        read_instances(folder)
    assert objects_of(read_instances(folder, format="labelme")) == TRUTH
    assert objects_of(read_instances(folder, format="coco")) == TRUTH
    shutil.copy(FORMATS / "yolo_lists/pets.yaml", folder / "other.yaml")
    shutil.copy(FORMATS / "yolo_lists/pets.yaml", folder / "pets.yaml")
    with pytest.raises(AnnotationError, match="give one of the files"):
        choose(folder, "yolo")


def test_nothing_known_says_what_lies_there(tmp_path):
    for name in ("a.csv", "b.csv", "c.jpg"):
        (tmp_path / name).write_text("x")
    with pytest.raises(
        AnnotationError, match=r"no dataset of a known format: 2 \.csv, 1 \.jpg; supported formats: coco, yolo"
    ):
        read_instances(tmp_path)
    with pytest.raises(AnnotationError, match="in the format voc: 2"):
        read_instances(tmp_path, format="voc")
    with pytest.raises(OptionError, match="format 'yolov5' is not one of coco, yolo"):
        recognize(tmp_path, "yolov5")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        recognize(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"images": [{"id": 1}', r"a\.json: not JSON"),
        (
            "a.json",
            '[{"image_id": 1, "bbox": [], "score": 1}]',
            "entries with image_id, bbox, score, which does not fit",
        ),
        (
            "a.json",
            '[{"id": 1, "image": "a.jpg", "label": []}]',
            "entries with id, image, label, which does not fit",
        ),
        (
            "a.json",
            '{"info": {}, "licenses": []}',
            "a file with info, licenses, which does not fit any known annotation",
        ),
        ("a.json", "3", "a file with 3, which does not fit"),
        ("a.xml", "<annotations><image/></annotations>", "<annotations> is not Pascal VOC's <annotation>; export as"),
        ("a.xml", "<annotations>", "not XML"),
        ("a.csv", "x,y", r"no dataset of a known format: 1 \.csv"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_kind(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_instances(tmp_path / name)


def test_a_split_has_to_be_chosen_where_there_are_several():
    with pytest.raises(OptionError, match="has the splits train, val; choose"):
        read_instances(FORMATS / "yolo_boxes")
    with pytest.raises(OptionError, match="no split 'trian'; did you mean 'train'"):
        read_instances(FORMATS / "yolo_boxes", "trian")
    assert len(read_instances(FORMATS / "coco").images) == 2


def test_pipes_are_not_waited_for(tmp_path):
    folder = copy_of("coco", tmp_path)
    for name in ("a.json", "b.xml", "data.yaml", "classes.txt", "images/c.png"):
        os.mkfifo(folder / name)
    assert objects_of(read_instances(folder)) == TRUTH


def test_links_in_a_circle_end(tmp_path):
    folder = copy_of("coco", tmp_path)
    (folder / "images" / "again").symlink_to(folder, target_is_directory=True)
    assert objects_of(read_instances(folder)) == TRUTH
