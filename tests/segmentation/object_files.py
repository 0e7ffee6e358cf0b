"""Datasets of objects on disk: COCO's panoptic format, and instances that are painted into label maps."""

import json

import label_files
import numpy as np
import torch

import pe_spatial.data  # noqa: F401 - registers the loaders
import pe_spatial.detection  # noqa: F401 - registers CocoInstances
from pe_spatial.data import encode_masks
from pe_spatial.segmentation import CocoPanoptic, InstanceLabels

LOAD = [{"type": "LoadImage"}, {"type": "LoadPanoptic"}, {"type": "PackSample"}]
SIZE = (12, 16)


def box(x1, y1, x2, y2):
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def panoptic(root, scenes, categories=None):
    """A dataset of images in COCO's panoptic format, from (map of segment ids [H, W], its segments) of each."""
    content = {
        "images": [],
        "annotations": [],
        "categories": categories
        or [{"id": 7, "name": "sky", "isthing": 0, "color": [1, 2, 3]}, {"id": 3, "name": "cat", "isthing": 1}],
    }
    for number, (ids, segments) in enumerate(scenes, 1):
        label_files.save_image(root / f"images/{number}.jpg", ids.shape)
        colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        label_files.save(root / f"maps/{number}.png", colors)
        size = {"height": ids.shape[0], "width": ids.shape[1]}
        content["images"].append({"id": number, "file_name": f"{number}.jpg", **size})
        content["annotations"].append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    (root / "panoptic.json").write_text(json.dumps(content))
    prefix = {"img_path": str(root / "images"), "seg_map_path": str(root / "maps")}
    return CocoPanoptic(ann_file=str(root / "panoptic.json"), data_prefix=prefix, pipeline=LOAD)


def instances(root, objects, background="background", load=None):
    """A dataset of one image with (category id, mask, is crowd) in COCO's format."""
    label_files.save_image(root / "images/1.jpg", SIZE)
    annotations = []
    for number, (category, mask, crowd) in enumerate(objects, 1):
        y, x = np.nonzero(mask)
        bounds = [int(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)]
        rle = encode_masks(torch.from_numpy(mask)[None])[0]
        entry = {"id": number, "image_id": 1, "category_id": category, "bbox": bounds, "segmentation": rle}
        annotations.append({**entry, "area": int(mask.sum()), "iscrowd": int(crowd)})
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    (root / "instances.json").write_text(json.dumps(content))
    source = {
        "type": "CocoInstances",
        "ann_file": str(root / "instances.json"),
        "data_prefix": {"img_path": str(root / "images")},
    }
    pipeline = [{"type": "LoadImage"}, {"type": "LoadInstanceLabels", **(load or {})}, {"type": "PackSample"}]
    return InstanceLabels(source, background, pipeline=pipeline)
