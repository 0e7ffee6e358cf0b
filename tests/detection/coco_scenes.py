"""Random COCO datasets for tests: boxes and masks of rectangles, crowds, classes with gaps, images without objects."""

import json

import numpy as np
import torch
from PIL import Image

from pe_spatial.data.loading import encode_masks


def random_coco(seed, images=6, size=(60, 80), crowds=0.1):
    rng = np.random.default_rng(seed)
    content = {
        "images": [
            {"id": 10 + 3 * i, "file_name": f"{i:03d}.png", "height": size[0], "width": size[1]} for i in range(images)
        ],
        "categories": [{"id": number, "name": name} for number, name in ((9, "tree"), (2, "car"), (5, "dog"))],
        "annotations": [],
    }
    for image in content["images"][:-1]:  # the last one is empty
        for _ in range(rng.integers(1, 6)):
            h, w = (int(v) for v in rng.integers(4, 40, 2))
            y, x = int(rng.integers(0, size[0] - h)), int(rng.integers(0, size[1] - w))
            mask = np.zeros(size, bool)
            mask[y : y + h, x : x + w] = True
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": image["id"],
                    "category_id": int(rng.choice([9, 2, 5])),
                    "bbox": [x, y, w, h],
                    "area": h * w,
                    "iscrowd": int(rng.random() < crowds),
                    "segmentation": encode_masks(torch.from_numpy(mask)[None])[0],
                }
            )
    return content


def write_coco(folder, content):
    """Write images and annotations; returns the arguments of a dataset."""
    (folder / "images").mkdir(parents=True)
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / "images" / image["file_name"])
    (folder / "instances.json").write_text(json.dumps(content))
    return {"ann_file": "instances.json", "data_root": str(folder), "data_prefix": {"img_path": "images"}}
