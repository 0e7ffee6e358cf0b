"""One small untrained checkpoint of each task that `pe-spatial predict` knows, and pictures and a video for them."""

import numpy as np
import torch
from mmengine.registry import MODELS
from PIL import Image
from small_runs import CONFIG, overrides
from small_segmenters import TINY, save_photos, save_segmenter

from pe_spatial.common.video import VideoWriter
from pe_spatial.demo.scenes import draw_video
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe
from pe_spatial.training.config import load_config

LISTS = {"detection": "predictions.json", "segmentation": "segmentation.json", "depth": "depth.json"}


def tracker_config(depth=2, short_side=64):
    """The text of a config of a small tracker; a dataset may follow."""
    sizes = f"patch_size: 8, width: 32, depth: {depth}, heads: 2, mlp_ratio: 2, image_size: 64"
    return f"""
custom_imports: {{imports: [pe_spatial.tracking]}}
default_scope: mmengine
model:
  type: VideoTracker
  backbone:
    type: PEBackbone
    variant: {{name: tiny, {sizes}, cls_token: true}}
    layers: [-1]
  resizing: {{short_side: {short_side}}}
  propagation: {{radius: 4}}
  recent: 3
"""


def tracked_dataset(root):
    """The text of a data set in DAVIS's folders, for the config of a tracker."""
    return f"""
test_dataloader:
  batch_size: 1
  num_workers: 0
  dataset: {{type: Davis2017, data_root: {root}}}
  sampler: {{type: DefaultSampler, shuffle: false}}
"""


def write_videos(root, frames):
    """Two drawn videos of so many frames in DAVIS's folders, as PNG, so that no frame is changed."""
    for seed, name in enumerate(("first", "second")):
        for number, scene in enumerate(draw_video(seed, size=(64, 96), frames=frames)):
            for folder, pixels in (("JPEGImages", scene.image), ("Annotations", scene.ids.astype(np.uint8))):
                path = root / folder / "480p" / name / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def save_detector(path, seed=0):
    """A checkpoint that describes itself; its category ids have gaps."""
    config = load_config(CONFIG, overrides("nowhere", iterations=1))
    metainfo = {"classes": ("a", "b", "c"), "category_ids": (1, 4, 6)}
    return save_model(path, config.to_dict(), metainfo, seed)


def save_depth_model(path, seed=0):
    changes = [f"model.backbone.variant={{{', '.join(f'{key}: {value}' for key, value in TINY.items())}}}"]
    config = load_config("demo/depth_linear_tiny_shapes.yaml", changes)
    return save_model(path, config.to_dict(), {}, seed)


def save_model(path, config, metainfo, seed=0):
    torch.manual_seed(seed)
    weights = MODELS.build(config["model"]).state_dict()
    save_checkpoint({"state_dict": weights, "pe_spatial": describe(config, metainfo)}, path)
    return path


SAVE = {"detection": save_detector, "segmentation": save_segmenter, "depth": save_depth_model}


def save_input(folder, pictures=5, frames=3):
    """Pictures in two folders, and between them, in the order of names, a video."""
    sizes = {f"{'a' if number % 2 else 'more__z'}{number}": (16 + 4 * number, 32) for number in range(pictures)}
    save_photos(folder, **dict(sorted(sizes.items())))
    with VideoWriter(folder / "film.mp4", rate=10) as video:
        for number in range(frames):
            video.write(torch.from_numpy(np.full((3, 16, 24), 40 * number, np.uint8)))
    return folder
