"""The demo's detector shrunk further, as overrides of its config, and strips of color for it to train on."""

import json

import numpy as np
from PIL import Image

CONFIG = "demo/mask_rcnn_tiny_shapes.yaml"


def write_strips(folder, images=4, size=64):
    """Images with two strips each, of which no anchor covers half: only the true boxes themselves are objects."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in ((1, "a"), (4, "b"), (6, "c"))],
    }
    for number in range(1, images + 1):
        pixels = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
        name = f"{number}.png"
        content["images"].append({"id": number, "file_name": name, "height": size, "width": size})
        for row in (0, 1):
            y, x, category = int(rng.integers(4, 20)) + 32 * row, int(rng.integers(0, 10)), int(rng.choice([1, 4, 6]))
            pixels[y : y + 5, x : x + 50] = 40 * category
            box = [x, y, 50, 5]
            corners = [x, y, x + 50, y, x + 50, y + 5, x, y + 5]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": 250,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
            )
        Image.fromarray(pixels).save(folder / "images" / name)
    (folder / "instances.json").write_text(json.dumps(content))


def shared_overrides(data, iterations, batch_size):
    """Any detector of the demo on the strips: a smaller encoder, no schedule, every step in the log."""
    changes = [
        "_image_size=64",
        "model.backbone.variant={name: t, patch_size: 16, width: 32, depth: 2, heads: 2, mlp_ratio: 2, image_size: 64, "
        "cls_token: false}",
        f"train_cfg.max_iters={iterations}",
        f"train_cfg.val_interval={iterations}",
        f"train_dataloader.batch_size={batch_size}",
        "val_dataloader.batch_size=2",
        "param_scheduler=[{type: ConstantLR, factor: 1.0, by_epoch: false}]",
        "default_hooks.checkpoint.best=null",
        "default_hooks.pictures=null",
        "default_hooks.logger.interval=1",
    ]
    for loader in ("train_dataloader", "val_dataloader"):
        changes += [
            f"{loader}.dataset.data_root={data}",
            f"{loader}.dataset.ann_file=instances.json",
            f"{loader}.dataset.data_prefix.img_path=images",
        ]
    return changes


def overrides(data, iterations, batch_size=2):
    """Enough to train Mask R-CNN; nothing in its losses is drawn at random."""
    return [
        *shared_overrides(data, iterations, batch_size),
        "model.neck.out_channels=16",
        "model.rpn.samples=4096",
        "model.rpn.post_nms=[20, 20]",
        "model.roi_heads.samples=256",
        "model.roi_heads.score_threshold=0.0",
        "model.roi_heads.box_head={type: ConvFCBoxHead, conv_channels: 16, num_convs: 1, fc_channels: 16}",
        "model.roi_heads.mask_head={type: ConvUpsampleMaskHead, conv_channels: 16, num_convs: 1}",
    ]
