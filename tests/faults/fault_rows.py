"""Small inputs of one fault each, by the names that they have in the list of faults: the first member of every kind."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

GIVEN = Path(__file__).parent / "data"
SIZE = (32, 48)
RANDOM = np.random.default_rng(0)


def photo():
    return RANDOM.integers(0, 256, (*SIZE, 3), np.uint8)


# --- detection: the sound file with one change ------------------------------------------------------------------------
def _all(**fields):
    return lambda content: [item.update(fields) for item in content["annotations"]]


def _flat(content):
    for item in content["annotations"]:
        x, y, w, h = item["bbox"]
        item["segmentation"] = [x, y, x + w, y, x + w, y + h, x, y + h]


def _nan(content):
    content["annotations"][0]["segmentation"] = [[48, 66, math.nan, 66, 57, 75]]


def _normalized(content):
    for item in content["annotations"]:
        item["bbox"] = [number / 128 for number in item["bbox"]]


DETECTION = {
    "seg_empty": _all(segmentation=[]),
    "date_int": lambda content: [image.update(date_captured=0) for image in content["images"]],
    "name_int": lambda content: [entry.update(name=entry["id"]) for entry in content["categories"]],
    "height_null": lambda content: content["images"][0].update(height=None),
    "file_name_null": lambda content: content["images"][0].update(file_name=None),
    "null_annotation": lambda content: content["annotations"].append(None),
    "poly_flat": _flat,
    "rle_in_list": lambda content: [a.update(segmentation=[a["segmentation"]]) for a in content["annotations"]],
    "poly_nan": _nan,
    "iscrowd_str0": _all(iscrowd="0"),
    "iscrowd_null": _all(iscrowd=None),
    "area_str": _all(area="1494"),
    "bbox_norm": _normalized,
}


def detection(root, name):
    """`NAME.json` and `base/images`."""
    shutil.copytree(GIVEN / "detection/base", root / "base")
    content = json.loads((root / "base/base.json").read_text())
    DETECTION[name](content)
    (root / f"{name}.json").write_text(json.dumps(content))


# --- segmentation -----------------------------------------------------------------------------------------------------
def _scene(number, values):
    labels = np.full(SIZE, values[0], np.uint8)
    for place, value in enumerate(values[1:]):
        labels[4 + number : 20 + number, 4 + 16 * place : 18 + 16 * place] = value
    return labels


def segmentation(root, name):
    """`data.yaml`, and pictures and label maps of two splits."""
    classes, values = {
        "bin255_one_negative": ("[bg, fg]", (0, 255)),
        "one_class_zero_ignored": ("[fg]", (0, 1)),
        "classes_by_number": ("{0: road, 1: tree, 2: car}", (0, 1, 2)),
    }.get(name, ("[road, tree, car]", (0, 1, 2)))
    text = f"classes: {classes}\nimages: {{train: images/train, val: images/val}}\n"
    text += "labels: {train: labels/train, val: labels/val}\n"
    (root / "data.yaml").write_text(text + ("zero_is_ignored: true\n" if name == "one_class_zero_ignored" else ""))
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(3):
            stem = f"{number + 100 * (split == 'val'):03}"
            empty = name == "bin255_one_negative" and number == 0
            _save_label(root / "labels" / split / stem, name, _scene(number, values[:1] if empty else values))
            _save_picture(root / "images" / split / stem, name)


def _save_label(path, name, labels):
    if name == "u8_tif_be":
        tifffile.imwrite(path.with_suffix(".tif"), labels.astype(">u2"), byteorder=">")
    elif name == "label_stack_tif":
        tifffile.imwrite(path.with_suffix(".tif"), np.stack([labels, labels]), photometric="minisblack")
    elif name == "label_jpg":
        Image.fromarray(labels * 100).save(path.with_suffix(".jpg"))
    else:
        end = "_mask" if name == "suffix_mask" else ""
        Image.fromarray(labels).save(path.with_name(f"{path.name}{end}.png"))


def _save_picture(path, name):
    if name == "img_12bit_gray":
        Image.fromarray(photo()[..., 0].astype(np.uint16) * 16 + 15).save(path.with_suffix(".png"))
    elif name == "img_4band_planar":
        bands = RANDOM.integers(0, 256, (4, *SIZE), np.uint8)
        tifffile.imwrite(path.with_suffix(".tif"), bands, photometric="minisblack", planarconfig="separate")
    else:
        Image.fromarray(photo()).save(path.with_suffix(".jpg"))


# --- depth ------------------------------------------------------------------------------------------------------------
METERS = np.linspace(1.5, 6.5, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
DEPTH = {
    "npy_nan": np.where(METERS < 2, np.nan, METERS),
    "npy_neg": -METERS,
    "npy_sky_1e9_most": np.where(METERS < 5, 1e10, METERS),
    "png_5000": np.round(METERS * 5000).astype(np.uint16),
    "tiff_f32": METERS,
}


def depth(root, name):
    """`images` and `depth`."""
    for kind in ("images", "depth"):
        (root / kind).mkdir()
    for number in range(2):
        Image.fromarray(photo()).save(root / f"images/{number:03}.jpg")
        path = root / f"depth/{number:03}"
        if name == "tiff_f32":
            tifffile.imwrite(path.with_suffix(".tiff"), DEPTH[name])
        elif name == "png_5000":
            Image.fromarray(DEPTH[name]).save(path.with_suffix(".png"))
        else:
            np.save(path.with_suffix(".npy"), DEPTH[name].astype(np.float32))


# --- panoptic ---------------------------------------------------------------------------------------------------------
def panoptic(root, name):
    """`annotations/panoptic_SPLIT.json`, and images and maps of each split."""
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        ids = np.full(SIZE, 101)
        ids[5:15, 5:15], ids[5:15, 20:30] = 202, 70303
        for kind in ("images", "panoptic"):
            (root / kind / split).mkdir(parents=True)
        Image.fromarray(photo()).save(root / f"images/{split}/1.jpg")
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        Image.fromarray(colors).save(root / f"panoptic/{split}/1.png")
        segments = [{"id": 101, "category_id": 1}, {"id": 202, "category_id": 7}, {"id": 70303, "category_id": 7}]
        categories = [{"id": 1, "name": "floor", "isthing": 0}, {"id": 7, "name": "cup", "isthing": 1}]
        for entry in categories:
            if name in ("no_isthing", "cat_no_name"):
                del entry["isthing" if name == "no_isthing" else "name"]
        size = {} if name == "no_size" else {"height": SIZE[0], "width": SIZE[1]}
        content = {
            "images": [{"id": 1, "file_name": "1.jpg", **size}],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            "categories": categories,
        }
        (root / f"annotations/panoptic_{split}.json").write_text(json.dumps(content))


MAKE = {"detection": detection, "segmentation": segmentation, "depth": depth, "panoptic": panoptic}
