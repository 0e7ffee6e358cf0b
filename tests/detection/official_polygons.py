"""Detectron2's rules for masks that are polygons, written down a second time: numpy, pycocotools, shapely for crops.

As a script, where shapely is installed, it writes what the tests compare crops with, `tests/data/polygon_targets.npz`.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

GOLDEN = Path(__file__).with_name("polygon_targets.npz")
COCO_TINY = Path(__file__).parents[2].parent / "shared" / "data" / "coco_tiny"
CELLS = 28


class Case(NamedTuple):
    """An object in an image of `size` (H, W) that is flipped or not, resized, and cropped to `window` (x, y, w, h)."""

    rings: list
    size: tuple
    is_flipped: bool
    resized: tuple
    window: tuple


# --- the rules --------------------------------------------------------------------------------------------------------
def flip(rings, width):
    return [np.stack([width - ring[:, 0], ring[:, 1]], axis=1) for ring in rings]


def resize(rings, before, after):
    factors = [after[1] * 1.0 / before[1], after[0] * 1.0 / before[0]]
    return [np.stack([ring[:, 0] * factors[0], ring[:, 1] * factors[1]], axis=1) for ring in rings]


def crop(rings, x, y, width, height):
    """fvcore's CropTransform.apply_polygons."""
    from shapely import geometry

    window, parts = geometry.box(x, y, x + width, y + height).buffer(0.0), []
    for ring in rings:
        polygon = geometry.Polygon(ring).buffer(0.0)
        if polygon.is_valid:
            cut = polygon.intersection(window)
            parts += [part for part in getattr(cut, "geoms", [cut]) if isinstance(part, geometry.Polygon)]
    return [np.asarray(p.exterior.coords)[:-1] - [x, y] for p in parts if p.is_valid and not p.is_empty]


def box_of(rings):
    """PolygonMasks.get_bounding_boxes, of one object."""
    vertices = np.concatenate(rings).astype(np.float32)
    return np.concatenate([vertices.min(axis=0), vertices.max(axis=0)])


def rasterize(rings, box, cells=CELLS):
    """rasterize_polygons_within_box."""
    width, height = box[2] - box[0], box[3] - box[1]
    across, down = cells / max(width, 0.1), cells / max(height, 0.1)
    flat = [np.stack([(r[:, 0] - box[0]) * across, (r[:, 1] - box[1]) * down], axis=1).reshape(-1) for r in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, cells, cells))).astype(bool)


def transform(case):
    rings = flip(case.rings, case.size[1]) if case.is_flipped else case.rings
    return crop(resize(rings, case.size, case.resized), *case.window)


# --- objects ----------------------------------------------------------------------------------------------------------
def made_objects(count=60, size=(90, 120)):
    """Stars, combs that a crop takes apart, objects of two rings, and rings that turn back or touch themselves."""
    rng = np.random.default_rng(5)
    objects = []
    for number in range(count):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 30)))
        radii = rng.uniform(3, 40, (len(angles), 1))
        star = rng.uniform(42, 48, 2) + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        x, y, tooth = *rng.uniform(1, 20, 2), rng.uniform(2, 6)
        tips = [[x + tooth * k, y + (30 if k % 2 else 60)] for k in range(12)]
        comb = np.array([[x, y], *tips, [x + tooth * 11, y]])
        spike = np.array([[87.5, 5.75], [93.25, 28], [93.25, 32.5], [93.25, 15.5]])
        touching = np.array([[60.0, 40], [80, 40], [70, 50], [80, 60], [60, 60], [70, 50.0]])
        objects.append(([star], [comb], [star, comb], [spike], [touching])[number % 5])
    return [(rings, size) for rings in objects]


def coco_objects(folder=COCO_TINY):
    """Every object whose mask is polygons, and the size of its image."""
    objects = []
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        content = json.loads(path.read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for annotation in content["annotations"]:
            if not annotation["iscrowd"]:
                rings = [np.array(polygon).reshape(-1, 2) for polygon in annotation["segmentation"]]
                objects.append((rings, sizes[annotation["image_id"]]))
    return objects


def cases(objects, side):
    """Large-scale jitter to windows of at most `side` pixels."""
    rng = np.random.default_rng(7)
    for rings, size in objects:
        scale = rng.uniform(0.1, 2.0) * side / max(size)
        resized = tuple(max(1, round(length * scale)) for length in size)
        height, width = (min(length, side) for length in resized)
        y, x = rng.integers(resized[0] - height + 1), rng.integers(resized[1] - width + 1)
        yield Case(rings, size, bool(rng.random() < 0.5), resized, (int(x), int(y), width, height))


def proposals(box, count=3):
    """The box of an object, and boxes around it that reach beyond it or show a part of it; float32 [1 + count, 4]."""
    rng = np.random.default_rng(int(box.sum() * 100))
    boxes = [box]
    for _ in range(count):
        x1, y1, x2, y2 = box + rng.normal(0, 0.15, 4) * np.tile(box[2:] - box[:2], 2)
        boxes.append([x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)])
    return np.array(boxes, np.float32)


def digest(boxes, targets):
    """One number of many boxes, to the hundredth of a pixel, and targets."""
    rounded = np.round(np.array(boxes) * 100).astype(np.int32)
    return hashlib.sha256(rounded.tobytes() + np.packbits(np.array(targets)).tobytes()).hexdigest()


def results(objects, side, transformed, targets_of):
    """Boxes [n, 4] and targets [n, 4, 28, 28] of the objects of which something is left; which these are [N]."""
    left, boxes, targets = [], [], []
    for case in cases(objects, side):
        rings = transformed(case)
        left.append(bool(rings))
        if rings:
            boxes.append(box_of(rings))
            targets.append(targets_of(rings, proposals(boxes[-1])))
    return np.array(left), np.array(boxes), np.array(targets)


def official_targets(rings, boxes):
    return [rasterize(rings, box) for box in boxes]


if __name__ == "__main__":
    left, boxes, targets = results(made_objects(), 100, transform, official_targets)
    coco = results(coco_objects(), 1024, transform, official_targets)
    counts = np.array([len(coco[0]), len(coco[1])])
    packed = np.packbits(targets, axis=-1)
    np.savez_compressed(GOLDEN, left=left, boxes=boxes, targets=packed, coco=digest(*coco[1:]), coco_counts=counts)
