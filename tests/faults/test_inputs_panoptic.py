"""Panoptic files as tools write them: optional fields, ids and flags of other kinds, and maps in other modes of PNG."""

import json
import re

import fault_rows
import numpy as np
import pytest
from PIL import Image

import pe_spatial.data  # noqa: F401 - registers the loaders
import pe_spatial.segmentation  # noqa: F401 - registers the datasets and their checks
from pe_spatial.doctor import ExaminationOptions, examine

MAP = "panoptic/train/1.png"


def report(root, change=None, redraw=None):
    """What the doctor says of the sound data with one change, and the objects of each class."""
    fault_rows.panoptic(root, "sound")
    path = root / "annotations/panoptic_train.json"
    content = json.loads(path.read_text())
    if change is not None:
        change(content)
    path.write_text(json.dumps(content))
    if redraw is not None:
        with Image.open(root / MAP) as image:
            redraw(np.array(image)).save(root / MAP)
    entry = {
        "type": "CocoPanoptic",
        "data_root": str(root),
        "ann_file": "annotations/panoptic_train.json",
        "data_prefix": {"img_path": "images/train", "seg_map_path": "panoptic/train"},
        "pipeline": [{"type": "LoadImage"}, {"type": "LoadPanoptic"}, {"type": "PackSample"}],
    }
    (found,) = examine({"train_dataloader": {"dataset": entry}}, ExaminationOptions())
    counts = {name: c for h in found.histograms for name, c in zip(h.names, h.counts, strict=True)}
    return "\n".join(found.findings.lines()), counts


def segments(content):
    return content["annotations"][0]["segments_info"]


def every(key, **fields):
    return lambda content: [entry.update(fields) for entry in content[key]]


def of_segments(**fields):
    return lambda content: [entry.update(fields) for entry in segments(content)]


def in_colors(shown):
    """The map as a palette file of its own colors, in an order of its own."""
    colors, places = np.unique(shown.reshape(-1, 3), axis=0, return_inverse=True)
    image = Image.fromarray((len(colors) - 1 - places).reshape(shown.shape[:2]).astype(np.uint8))
    image.putpalette(colors[::-1].astype(np.uint8).tobytes())
    return image


def in_numbers(shown):
    """The map as a palette file of numbers, of whatever colors."""
    image = Image.fromarray(shown[..., 0])
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


def ids_below_256(content):
    for entry, number in zip(segments(content), (101, 202, 70303 % 256), strict=True):
        entry["id"] = number


SOUND = {
    "base": (None, None),
    "sizes_null": (every("images", height=None, width=None), None),
    "sizes_text": (every("images", height="32", width=48.0), None),
    "ids_text": (lambda content: [entry.update(id=str(entry["id"])) for entry in segments(content)], None),
    "thing_text": (lambda content: content["categories"][1].update(isthing="1"), None),
    "thing_true": (lambda content: content["categories"][1].update(isthing=True), None),
    "thing_float": (lambda content: content["categories"][1].update(isthing=1.0), None),
    "crowd_text": (of_segments(iscrowd="0"), None),
    "area_text": (of_segments(area="x", bbox=None), None),
    "color_null": (every("categories", color=None), None),
    "color_float": (every("categories", color=[1.0, 2.0, 3.0]), None),
    "supercategory_null": (every("categories", supercategory=None), None),
    "map_of_alpha": (None, lambda shown: Image.fromarray(shown).convert("RGBA")),
    "map_in_palette": (None, in_colors),
    "map_of_numbers_in_palette": (ids_below_256, in_numbers),
    "map_of_gray_numbers": (ids_below_256, lambda shown: Image.fromarray(shown[..., 0])),
    "map_of_16_bits": (
        lambda content: segments(content)[2].update(id=70303 % 65536),
        lambda shown: Image.fromarray(shown[..., 0] + shown[..., 1].astype(np.uint16) * 256),
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_means_the_same_is_no_finding(tmp_path, name):
    text, counts = report(tmp_path, *SOUND[name])
    assert text == ""
    assert counts == {"floor": 32 * 48 - 200, "cup": 2} or counts == {"floor": 32 * 48 - 200, "cup": 200}


FAULTY = {
    "segment_twice": (lambda c: segments(c).append(dict(segments(c)[0])), None, "segment id 101 is used twice"),
    "image_twice": (
        lambda c: c["annotations"].append(dict(c["annotations"][0])),
        None,
        "image 1 has 2 annotations, and 1 images have several; an image may have only one map",
    ),
    "name_twice": (every("categories", name="cup"), None, "have the name 'cup'; it must be unique"),
    "name_null": (every("categories", name=None), None, "category 1: name is None, but must be text"),
    "thing_yes": (every("categories", isthing="yes"), None, "isthing is 'yes', but must be 0 or 1"),
    "thing_2": (every("categories", isthing=2), None, "isthing is 2, but must be 0 or 1"),
    "thing_null": (
        every("categories", isthing=None),
        None,
        "isthing is missing, so it is not known which classes are things in floor, cup",
    ),
    "color_text": (every("categories", color="red"), None, r"color is 'red', but must be \[red, green, blue\]"),
    "color_short": (every("categories", color=[1, 2]), None, r"color is \[1, 2\], but must be"),
    "color_large": (every("categories", color=[1, 2, 300]), None, r"color is \[1, 2, 300\], but must be"),
    "segment_null": (
        lambda c: segments(c).append(None),
        None,
        r"\(image 1\): segments_info has as segment number 4: None",
    ),
    "class_null": (of_segments(category_id=None), None, "has as segment number 1: category_id is None, but must be"),
    "class_unknown": (of_segments(category_id=99), None, "have a category_id that is not in the file"),
    "no_segments": (every("annotations", segments_info=None), None, "segments_info is None, but must be a list"),
    "image_unknown": (every("annotations", image_id=99), None, "have a image_id that is not in the file"),
    "file_null": (every("annotations", file_name=None), None, "file_name is None, but must be text"),
    "file_absent": (every("annotations", file_name="2.png"), None, "2.png cannot be read: no such file"),
    "size_other": (every("images", height=33), None, r"the image is \(32, 48\) .* but its record says \(33, 48\)"),
    "map_in_bgr": (None, lambda shown: Image.fromarray(shown[..., ::-1].copy()), "is not among the 3 segments"),
    "map_smoothed": (
        None,
        lambda shown: Image.fromarray(shown).resize((24, 16)).resize((48, 32), Image.Resampling.BICUBIC),
        "is not among the 3 segments",
    ),
    "map_cut": (None, lambda shown: Image.fromarray(shown[:20]), "both must have one size"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_found_and_named(tmp_path, name):
    change, redraw, says = FAULTY[name]
    text, _ = report(tmp_path, change, redraw)
    assert re.search(says, text), text
    assert text.startswith("warning: " if name == "thing_null" else "error: ") and ".py, line" not in text
