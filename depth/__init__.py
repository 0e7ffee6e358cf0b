"""Depth models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

import pe_spatial.depth.checks  # noqa: F401 - registers what the dataset doctor asks
from pe_spatial.depth.datasets import DepthFolder, KittiDepth, NyuDepth
from pe_spatial.depth.heads import DPTDepthHead, LinearBinsHead
from pe_spatial.depth.loading import LoadDepthMap, read_depth
from pe_spatial.depth.losses import MultiScaleGradientLoss, ScaleInvariantLogLoss
from pe_spatial.depth.metrics import MEASURES, DepthErrorMetric, depth_errors
from pe_spatial.depth.model import DepthModel
from pe_spatial.depth.transforms import CropRegion, RandomExposure, RandomZoom
