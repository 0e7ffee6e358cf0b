"""Faults of labels, planted in a COCO file of the synthetic scenes: what the search for label errors has to find."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pe_spatial.data.loading import decode_mask, encode_masks

KINDS = ("class", "box", "missing", "spurious", "mask")

Box = list[float]  # [x, y, width, height]
Mask = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Args:
        kind: One of `KINDS`.
        image_id: Of the image.
        annotation_id: Of the changed or invented annotation; of a missing one, the id that it had.
        box: [x, y, width, height] of the annotation, or of the missing object.
    """

    kind: str
    image_id: int
    annotation_id: int
    box: Box


def plant(
    content: Mapping[str, Any], each: int, seed: int, kinds: Sequence[str] = KINDS
) -> tuple[dict[str, Any], list[Fault]]:
    """A copy of a COCO file with faults, `each` of every kind, no two on one object; and which they are.

    A class is another one. A box is moved by 30 to 60 % of its sides, or its sides are multiplied by 0.5 to 0.6 or by
    1.6 to 2.0; its mask goes with it. A missing object is an annotation that is taken out. An invented one is an
    ellipse where no object is (IoU below 0.1). Of a mask, only the rim is left.

    Args:
        content: The file, whose masks are RLEs.
        each: Number of faults of a kind.
        seed: Equal seeds plant equal faults.
        kinds: Some of `KINDS`.
    """
    random = np.random.default_rng(seed)
    spoiled = copy.deepcopy(dict(content))
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    rows = random.permutation(len(content["annotations"]))[: each * len(kinds)].tolist()
    faults: list[Fault] = []
    for number, row in enumerate(rows):
        kind, annotation = kinds[number % len(kinds)], spoiled["annotations"][row]
        size = sizes[annotation["image_id"]]
        if kind == "class":
            others = [c["id"] for c in content["categories"] if c["id"] != annotation["category_id"]]
            annotation["category_id"] = int(random.choice(others))
        elif kind == "box":
            _replace(annotation, _moved(annotation, size, random))
        elif kind == "mask":
            _replace(annotation, _hollow(decode_mask(annotation["segmentation"], size)))
        elif kind == "spurious":
            annotation = _invent(spoiled, annotation["image_id"], size, random)
        faults.append(Fault(kind, annotation["image_id"], annotation["id"], list(annotation["bbox"])))
    missing = {fault.annotation_id for fault in faults if fault.kind == "missing"}
    spoiled["annotations"] = [entry for entry in spoiled["annotations"] if entry["id"] not in missing]
    return spoiled, faults


def _replace(annotation: dict[str, Any], mask: Mask) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    annotation["bbox"] = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    annotation["area"] = int(mask.sum())
    annotation["segmentation"] = encode_masks(torch.from_numpy(mask[None]))[0]


def _moved(annotation: Mapping[str, Any], size: tuple[int, int], random: np.random.Generator) -> Mask:
    """The mask, moved or of another size, about the center of its box; again until enough of it is in the image."""
    mask = decode_mask(annotation["segmentation"], size)
    x, y, width, height = annotation["bbox"]
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    while True:
        shift, scale = np.zeros(2), 1.0
        if random.random() < 0.5:
            shift = random.uniform(0.3, 0.6, 2) * random.choice([-1, 1], 2) * (width, height)
        else:
            scale = random.uniform(0.5, 0.6) if random.random() < 0.5 else random.uniform(1.6, 2.0)
        sources = (
            np.floor(y + height / 2 + (rows - shift[1] - y - height / 2) / scale).astype(int),
            np.floor(x + width / 2 + (columns - shift[0] - x - width / 2) / scale).astype(int),
        )
        inside = (sources[0] >= 0) & (sources[0] < size[0]) & (sources[1] >= 0) & (sources[1] < size[1])
        moved = np.zeros_like(mask)
        moved[inside] = mask[sources[0][inside], sources[1][inside]]
        if moved.sum() > 0.7 * scale**2 * mask.sum():
            return moved


def _hollow(mask: Mask) -> Mask:
    """A mask without what lies in an ellipse of 0.8 of the sides of its box, which stays as it is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    across = (2 * x - columns[0] - columns[-1]) / (0.8 * len(columns))
    along = (2 * y - rows[0] - rows[-1]) / (0.8 * len(rows))
    return mask & (across**2 + along**2 > 1)


def _invent(content: dict[str, Any], image_id: int, size: tuple[int, int], random: np.random.Generator) -> Any:
    """Append an annotation where no object of the image is."""
    boxes = [entry["bbox"] for entry in content["annotations"] if entry["image_id"] == image_id]
    while True:
        width, height = random.uniform(0.12, 0.4, 2) * (size[1], size[0])
        x, y = random.uniform(0, size[1] - width), random.uniform(0, size[0] - height)
        if all(_iou((x, y, width, height), box) < 0.1 for box in boxes):
            break
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    ellipse = ((columns - x - width / 2) / width) ** 2 + ((rows - y - height / 2) / height) ** 2 <= 0.25
    annotation = {
        "id": 1 + max(entry["id"] for entry in content["annotations"]),
        "image_id": image_id,
        "category_id": int(random.choice([entry["id"] for entry in content["categories"]])),
        "iscrowd": 0,
    }
    _replace(annotation, ellipse)
    content["annotations"].append(annotation)
    return annotation


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def precision(entries: Sequence[Mapping[str, Any]], faults: Sequence[Fault]) -> dict[str, float]:
    """How many of the first entries of a list of suspects are planted faults: as many entries as there are faults.

    Args:
        entries: Of `label_errors.json`, the gravest first.
        faults: All that were planted in these images.

    Returns:
        A share for every kind, of the entries and faults of that kind alone, and for `all`, where every entry counts
        that points at a planted fault.
    """
    places = {id(entry): _fault_at(entry, faults) for entry in entries}
    shares = {}
    for kind in dict.fromkeys(fault.kind for fault in faults):
        count = sum(fault.kind == kind for fault in faults)
        first = [entry for entry in entries if entry["kind"] == kind][:count]
        hits = [fault for entry in first if (fault := places[id(entry)]) is not None and fault.kind == kind]
        shares[kind] = len(set(map(id, hits))) / count
    found = [fault for entry in entries[: len(faults)] if (fault := places[id(entry)]) is not None]
    return {**shares, "all": len(set(map(id, found))) / len(faults)}


def _fault_at(entry: Mapping[str, Any], faults: Sequence[Fault]) -> Fault | None:
    missing = "bbox" not in entry
    box, least = (entry["predicted_bbox"], 0.5) if missing else (entry["bbox"], 0.98)
    for fault in faults:
        if (
            fault.image_id == entry["image_id"]
            and (fault.kind == "missing") == missing
            and _iou(box, fault.box) >= least
        ):
            return fault
    return None
