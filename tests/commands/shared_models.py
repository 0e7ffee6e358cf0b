"""Untrained models of every task on one frozen encoder, in checkpoints that describe themselves."""

import torch
from mmengine.registry import MODELS, DefaultScope
from small_segmenters import CLASSES, COLORS, TINY

from pe_spatial.training.checkpoint import save_checkpoint
from pe_spatial.training.checkpoint_hook import describe

PIPELINE = [{"type": "LoadImage"}, {"type": "KeepRatioResize", "max_size": 64}, {"type": "PackSample"}]
SEGMENTER = {"type": "SemanticSegmentor", "num_classes": len(CLASSES), "decode_head": {"type": "LinearHead"}}
UPERNET = {
    **SEGMENTER,
    "neck": {"type": "SimpleFeaturePyramid", "out_channels": 16},
    "decode_head": {
        "type": "mmseg.UPerHead",
        "in_index": [0, 1, 2, 3],
        "pool_scales": [1, 2],
        "channels": 16,
        "norm_cfg": {"type": "BN"},
    },
}
DECODER = {"type": "MaskDecoder", "num_classes": len(CLASSES), "num_queries": 10, "num_blocks": 1}
LOSSES = [{"type": "ScaleInvariantLogLoss", "invariance": 0.85}]
DEPTH = {"type": "DepthModel", "head": {"type": "LinearBinsHead", "depth_range": [0.1, 10]}, "losses": LOSSES}
DPT = {**DEPTH, "head": {"type": "DPTDepthHead", "depth_range": [0.1, 10], "channels": 16}, "layers": [0, 1, 1, 2]}
DETECTOR = {
    "type": "MaskRCNN",
    "num_classes": 3,
    "neck": {"type": "SimpleFeaturePyramid", "out_channels": 16},
    "rpn": {"type": "RPN", "num_convs": 1, "post_nms": [20, 20], "anchor_sizes": [8, 16, 32, 64, 128]},
    "roi_heads": {
        "type": "RoIHeads",
        "score_threshold": 0.0,
        "box_head": {"type": "ConvFCBoxHead", "conv_channels": 16, "num_convs": 1, "fc_channels": 16},
        "mask_head": {"type": "ConvUpsampleMaskHead", "conv_channels": 16, "num_convs": 1},
    },
}
MODELS_BY_NAME = {
    "det": DETECTOR,
    "seg": SEGMENTER,
    "upernet": UPERNET,
    "queries": DECODER,
    "depth": DEPTH,
    "dpt": DPT,
}
IMPORTS = ["pe_spatial.detection", "pe_spatial.segmentation", "pe_spatial.depth"]


def save_shared(path, name, seed=0, backbone=None, preprocessor=None, pipeline=None, **options):
    """A checkpoint of one of the models; its encoder is a function of `seed`, its head of its name."""
    model = {**MODELS_BY_NAME[name], **options}
    layers = {"layers": model.pop("layers")} if "layers" in model else {}
    encoder = {"type": "PEBackbone", "variant": TINY, "frozen": True, **layers, **(backbone or {})}
    encoder = {key: value for key, value in encoder.items() if value is not None}
    config = {
        "model": {
            **model,
            "backbone": encoder,
            "data_preprocessor": {"type": "DensePreprocessor", "size_divisor": 8, **(preprocessor or {})},
        },
        "custom_imports": {"imports": IMPORTS},
        "default_scope": "mmseg" if "SemanticSegmentor" in model["type"] else "mmengine",
        "val_dataloader": {"dataset": {"pipeline": pipeline or PIPELINE}},
    }
    for module in IMPORTS:
        __import__(module)
    with DefaultScope.overwrite_default_scope(config["default_scope"]):
        torch.manual_seed(100 + sorted(MODELS_BY_NAME).index(name))
        built = MODELS.build(config["model"]).eval()
    torch.manual_seed(seed)
    fill(built.backbone.encoder)
    torch.manual_seed(200 + sorted(MODELS_BY_NAME).index(name))
    for part, module in built.named_children():
        if part not in ("backbone", "data_preprocessor", "losses"):
            fill(module)
    classes = ("a", "b", "c") if name == "det" else CLASSES
    metainfo = {} if name in ("depth", "dpt") else {"classes": classes, "palette": COLORS[: len(classes)]}
    save_checkpoint({"state_dict": built.state_dict(), "pe_spatial": describe(config, metainfo)}, path)
    return path


def fill(module):
    """Weights large enough for predictions to differ from place to place."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 or name == "class_embedding":
            torch.nn.init.normal_(parameter, std=0.15)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
