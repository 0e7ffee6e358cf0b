"""Depth models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

import depth.checks  # noqa: F401 - registers what the data set doctor asks
from depth.datasets import DepthFolder, KittiDepth, NyuDepth
from depth.heads import DPTDepthHead, LinearBinsHead
from depth.loading import LoadDepthMap, read_depth
from depth.losses import MultiScaleGradientLoss, ScaleInvariantLogLoss
from depth.metrics import MEASURES, DepthErrorMetric, depth_errors
from depth.model import DepthModel
from depth.tiling import DepthTiling
from depth.transforms import CropRegion, RandomExposure, RandomZoom
from depth.writer import DepthWriter

__all__ = [
    "MEASURES",
    "CropRegion",
    "DPTDepthHead",
    "DepthErrorMetric",
    "DepthFolder",
    "DepthModel",
    "DepthTiling",
    "DepthWriter",
    "KittiDepth",
    "LinearBinsHead",
    "LoadDepthMap",
    "MultiScaleGradientLoss",
    "NyuDepth",
    "RandomExposure",
    "RandomZoom",
    "ScaleInvariantLogLoss",
    "depth_errors",
    "read_depth",
]
