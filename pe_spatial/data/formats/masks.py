"""Masks in pictures: an object of its own each, or the pixels of a picture by class.

One file per object: the masks of `images/a.png` in `masks/a/*.png`, or both in a folder of the picture's name
(`a/images` and `a/masks`). A mask has two values at most, and what is not 0 is the object. All objects are of one
class.

One file per picture: values or colors mean classes. `SegmentationFolder` reads them with a YAML file of classes; where
there is none, the reading proposes what it has to say, from the values of some files. CVAT's segmentation masks come
with `labelmap.txt`, which has names and colors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pe_spatial.common.console import track
from pe_spatial.common.errors import AnnotationError, UnreadableFile, few
from pe_spatial.common.pictures import read_indices
from pe_spatial.common.safe_yaml import YAMLError, parse, write
from pe_spatial.data.formats.content import Instances, InstancesBuilder, Record
from pe_spatial.data.formats.place import SPLITS, Place, read_names, read_text, require_size
from pe_spatial.data.formats.reading import Config, Reading
from pe_spatial.data.loading import encode_masks
from pe_spatial.data.transforms import boxes_of_masks

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
_FOLDERS = ("images", "JPEGImages", "img", "imgs", "image")
_LABELS = ("labels", "masks", "mask", "annotations", "SegmentationClass", "label")
_EXAMINED = 8  # files whose values are looked at
_MOST_COLORS = 64
_STEM_ENDS = ("", "_mask", "_label", "_labels", "_seg", "_gt")
OBJECT = "object"


@dataclass(frozen=True)
class Mask:
    """The pixels of an object, bool [H, W]."""

    pixels: Tensor

    def fields(self) -> Record:
        """Entries of the annotation."""
        x1, y1, x2, y2 = boxes_of_masks(self.pixels[None])[0].tolist()
        rle = encode_masks(self.pixels[None])[0]
        return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(self.pixels.sum()), "segmentation": rle}


# --- one file per object ----------------------------------------------------------------------------------------------
def find_objects(place: Place) -> list[Reading]:
    """The readings of a folder with a file for each object."""
    if place.is_file:
        return []
    masks: dict[str, list[str]] = {}
    pictures = set(place.pictures)
    for name in place.pictures:
        path = PurePosixPath(name)
        if "masks" in path.parts[:-1] and path.suffix.lower() in MASK_SUFFIXES:
            position = path.parts.index("masks")
            below = path.parts[position + 1 : -1]
            folder, stem = path.parts[:position], below or path.parts[position - 1 : position]
            stem_path = "/".join((*folder, "images", *stem))
            if (picture := place.picture_of_stem(stem_path, str(place.root))) in pictures and picture:
                masks.setdefault(picture, []).append(name)
    if not masks or all(len(files) == 1 and PurePosixPath(files[0]).parent.name == "masks" for files in masks.values()):
        return []
    return [Reading("object-masks", place.path, "masks, one file per object", ("all",), partial(_load, place, masks))]


def _load(place: Place, masks: Mapping[str, Sequence[str]], split: str) -> Instances:
    builder = InstancesBuilder(str(place.path), place.root, [OBJECT])
    for picture in track(masks, f"reading {split}", unit="images"):
        size = require_size((0, 0), place.root / picture, picture)
        image = builder.add_image(picture, size)
        for name in masks[picture]:
            path = place.root / name
            values = read_indices(path, colors=True)
            values = values.max(axis=-1) if values.ndim == 3 else values
            if values.shape != size:
                raise AnnotationError(f"{path}: a mask of {values.shape} (H, W) for {picture} of {size}; restore it")
            present = np.unique(values)
            if len(present[present != 0]) > 1:
                raise AnnotationError(
                    f"{path}: {len(present)} values ({few(present, 5)}), but a mask of one object has 0 and one other; "
                    "save it without smoothing and without JPEG compression"
                )
            if not values.any():
                builder.note("masks without a pixel, left out", name)
                continue
            builder.add_object(image, OBJECT, Mask(torch.from_numpy(values != 0)), str(path))
    used = {name for names in masks.values() for name in names} | set(masks)
    for name in place.pictures:
        if name not in used:
            builder.note("pictures without masks, left out", name)
    return builder.build()


# --- one file per picture ---------------------------------------------------------------------------------------------
def find_classes(place: Place) -> list[Reading]:
    """The readings of a folder, or of a YAML file of classes, with a label map for each picture."""
    found = []
    for name in place.meant(".yaml", ".yml"):
        if "/" not in name and (content := _class_list(place, name)):
            splits = {split: _config(name, split, place) for split in content["images"]}
            counts = {split: _count(place, str(folder)) for split, folder in content["images"].items()}
            about = f"label maps of {len(content['classes'])} classes, described by {name}"
            folders = {split: place.root / str(folder) for split, folder in content["images"].items()}
            found.append(
                Reading("masks", place.root / name, about, tuple(splits), None, splits, counts, folders=folders)
            )
    if found or place.is_file:
        return found
    maps = place.with_suffix(*MASK_SUFFIXES)
    by_folder = {labels: [name for name in maps if name.startswith(f"{labels}/")] for labels in _LABELS}
    for images, labels in ((images, labels) for images in _FOLDERS for labels in _LABELS):
        files = by_folder[labels]
        if any(_end_of(place, name, images, labels) is not None for name in files):
            found.append(_proposed(place, images, labels, files))
    return found


def _class_list(place: Place, name: str) -> dict[str, Any]:
    try:
        content = parse(read_text(place.root / name))
    except (YAMLError, UnreadableFile, RecursionError):
        return {}
    is_list = isinstance(content, dict) and {"classes", "images", "labels"} <= content.keys()
    return content if is_list and isinstance(content["images"], dict) else {}


def _config(ann_file: str, split: str, place: Place) -> Config:
    return {"type": "SegmentationFolder", "data_root": str(place.root), "ann_file": ann_file, "split": split}


def _count(place: Place, folder: str) -> int:
    inside = folder.strip("/").removeprefix("./") + "/"
    return sum(name.startswith(inside) for name in place.pictures)


def _proposed(place: Place, images: str, labels: str, files: Sequence[str]) -> Reading:
    """A reading of label maps that nothing describes, with the description to write."""
    kind, classes, ignore = _examine(place, files)
    inside = {PurePosixPath(name).parts[1] for name in files if name.count("/") == 2}
    splits = [split for split in SPLITS if split in inside] or ["all"]
    folders = {
        key: {split: folder if split == "all" else f"{folder}/{split}" for split in splits}
        for key, folder in (("images", images), ("labels", labels))
    }
    ends = (_end_of(place, name, images, labels) for name in files)
    end = next((found for found in ends if found is not None), "")
    content = {"classes": classes, **folders, **({"ignore": ignore} if ignore else {})}
    content |= {"label_stem_end": end} if end else {}
    advice = f"write data.yaml there; it begins with\n{write(content)}"
    if kind == "0/255":
        advice = "binary masks of 0 and 255: save objects with the value 1, because 255 means no label; then " + advice
    counts = {split: _count(place, folders["images"][split]) for split in splits}
    datasets = {split: _config("data.yaml", split, place) for split in splits}
    about, places = f"label maps of {kind}", {split: place.root / folders["images"][split] for split in splits}
    return Reading("masks", place.path, about, tuple(splits), None, datasets, counts, advice, folders=places)


def _end_of(place: Place, name: str, images: str, labels: str) -> str | None:
    """What the name of a label map has beyond that of its picture; None where there is no such picture."""
    stem = images + name[len(labels) :].rpartition(".")[0]
    for end in _STEM_ENDS:
        if stem.endswith(end) and place.picture_of_stem(stem[: len(stem) - len(end)], name):
            return end
    return None


def _examine(place: Place, files: Sequence[str]) -> tuple[str, Any, list[Any]]:
    """What some label maps hold (`class ids`, `colors`, `0/255`), classes by it, and what means no label."""
    values: set[int] = set()
    colors: set[tuple[int, ...]] = set()
    step = max(len(files) // _EXAMINED, 1)
    for name in files[::step]:
        pixels = read_indices(place.root / name, colors=True)
        if pixels.ndim == 3 and (pixels != pixels[..., :1]).any():
            colors |= {tuple(color) for color in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
        else:
            values |= set(np.unique(pixels).tolist())
    if "labelmap.txt" in place.files:
        named = _labelmap(place)
        return "colors, named in labelmap.txt", named, []
    if colors:
        if len(colors) > _MOST_COLORS:
            raise AnnotationError(
                f"{place.root / files[0]}: {len(colors)} colors in some label maps; they are photographs, or were "
                "smoothed or compressed: save PNGs of the plain colors"
            )
        return "colors", {f"class_{n}": list(color) for n, color in enumerate(sorted(colors))}, []
    if values == {0, 255}:
        return "0/255", ["background", OBJECT], []
    numbers = values - {255}
    return "class ids", [f"class_{n}" for n in range(max(numbers, default=0) + 1)], [255] if 255 in values else []


def _labelmap(place: Place) -> dict[str, list[int]]:
    """CVAT's lines `name:r,g,b:parts:actions`."""
    found = {}
    for line in read_names(place.root / "labelmap.txt"):
        if not line.startswith("#"):
            name, color, *_ = line.split(":") + [""]
            try:
                found[name] = [int(part) for part in color.split(",")]
            except ValueError:
                raise AnnotationError(
                    f"{place.root / 'labelmap.txt'}: {line!r} is not name:r,g,b::; correct it"
                ) from None
    return found
