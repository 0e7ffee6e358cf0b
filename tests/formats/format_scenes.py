"""The datasets of tests/data/formats, and what they all say."""

import shutil
from pathlib import Path

from pe_spatial.data.formats import read_instances

FORMATS = Path(__file__).parents[1] / "data" / "formats"
TRUTH = {"a": [("cat", [4, 6, 8, 12]), ("dog", [16, 3, 12, 15])], "b": [("cat", [8, 0, 16, 24])]}

# folder -> splits, and the format where the files do not show it
BOXES = {
    "coco": (["all"], None),
    "coco_cvat": (["all"], None),
    "coco_datumaro": (["train", "val"], None),
    "coco_roboflow": (["train", "valid"], None),
    "coco_label_studio": (["all"], None),
    "yolo_boxes": (["train", "val"], None),
    "yolo_polygons": (["train", "val"], None),
    "yolo_roboflow": (["train", "val"], None),
    "yolo_lists": (["train", "val"], None),
    "yolo_label_studio": (["all"], None),
    "yolo_cvat": (["train"], None),
    "voc": (["train", "val"], None),
    "voc_beside": (["train", "valid"], None),
    "voc0": (["default"], "voc0"),
    "labelme": (["all"], None),
    "labelme_windows": (["all"], None),
    "label_studio": (["all"], None),
    "object_masks": (["all"], None),
    "object_masks_beside": (["all"], None),
}


def objects_of(*parts):
    """{stem of the picture: [(class, box)]} of Instances."""
    found = {}
    for part in parts:
        names = {category["id"]: category["name"] for category in part.categories}
        for image in part.images:
            stem = Path(image["file_name"]).stem.removeprefix("0a1b2c3d-").partition("_jpg.rf.")[0]
            found[stem] = [
                (names[a["category_id"]], a["bbox"]) for a in part.annotations if a["image_id"] == image["id"]
            ]
    return found


def read_all(name):
    """The splits of a dataset of tests/data/formats."""
    splits, format_name = BOXES[name]
    return {split: read_instances(FORMATS / name, split, format_name) for split in splits}


def copy_of(name, folder):
    """A copy of a dataset that a test may damage."""
    return Path(shutil.copytree(FORMATS / name, folder / name, dirs_exist_ok=True))
