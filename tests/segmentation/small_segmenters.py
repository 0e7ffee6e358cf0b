"""Small untrained segmenters in checkpoints that describe themselves, and folders of pictures of noise."""

import numpy as np
import torch
from mmengine.registry import MODELS
from PIL import Image

import pe_spatial.segmentation  # noqa: F401 - registers the models
from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe

TINY = {
    "name": "tiny",
    "patch_size": 8,
    "width": 32,
    "depth": 3,
    "heads": 2,
    "mlp_ratio": 2,
    "image_size": 32,
    "cls_token": True,
}
CLASSES = ("road", "tree", "car", "sky", "person")
COLORS = [[128, 64, 128], [0, 120, 0], [0, 0, 142], [70, 130, 180], [220, 20, 60]]


def settings(kind="SemanticSegmentor", resize=None, **options):
    """A config with what prediction needs."""
    head = {"decode_head": {"type": "LinearHead"}} if kind == "SemanticSegmentor" else {}
    model = {
        "type": kind,
        "num_classes": len(CLASSES),
        "backbone": {"type": "PEBackbone", "variant": TINY},
        "data_preprocessor": {"type": "DensePreprocessor", "size_divisor": 8},
        **head,
        **options,
    }
    resizing = [] if resize is None else [{"type": "torchvision.transforms.v2.Resize", "size": resize}]
    pipeline = [{"type": "LoadImage"}, *resizing, {"type": "PackSample"}]
    return {
        "model": model,
        "custom_imports": {"imports": ["pe_spatial.segmentation"]},
        "val_dataloader": {"dataset": {"pipeline": pipeline}},
    }


def build(config, seed=0):
    """The model of a config, with weights large enough for the classes to differ."""
    torch.manual_seed(seed)
    model = MODELS.build(config["model"])
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def save_segmenter(path, seed=0, kind="SemanticSegmentor", resize=None, **options):
    """A checkpoint of such a model; returns its path."""
    config = settings(kind, resize, **options)
    metainfo = {"classes": CLASSES, "palette": COLORS}
    save_checkpoint({"state_dict": build(config, seed).state_dict(), "pe_spatial": describe(config, metainfo)}, path)
    return path


def save_photos(folder, **sizes):
    """Pictures of coarse noise by name ("a/b" with a double underscore), of (H, W) each; returns their folder."""
    for number, (name, (height, width)) in enumerate(sizes.items()):
        path = folder / f"{name.replace('__', '/')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).save(path)
    return folder
