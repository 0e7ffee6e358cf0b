"""Segmentation models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

import segmentation._mmseg  # noqa: F401 - first, for its silence
import segmentation.checks  # noqa: F401 - registers what the data set doctor asks
from segmentation.datasets import (
    ADE20K,
    Cityscapes,
    COCOStuff,
    PascalVOC,
    SegmentationDataset,
    SegmentationFolder,
)
from segmentation.heads import LinearHead
from segmentation.labels import LabelError, LabelFormat
from segmentation.loading import LoadSegmentation
from segmentation.logits import SemanticModel, Window
from segmentation.mask_decoder import MaskAnnealingHook, MaskCriterion, MaskDecoder
from segmentation.metrics import MeanIoUMetric
from segmentation.panoptic import CocoPanoptic, InstanceLabels, LoadInstanceLabels, LoadPanoptic
from segmentation.panoptic_quality import PanopticMetric
from segmentation.segmentor import SemanticSegmentor
from segmentation.transforms import MixedCrop, RandomScale

__all__ = [
    "ADE20K",
    "COCOStuff",
    "Cityscapes",
    "CocoPanoptic",
    "InstanceLabels",
    "LabelError",
    "LabelFormat",
    "LinearHead",
    "LoadInstanceLabels",
    "LoadPanoptic",
    "LoadSegmentation",
    "MaskAnnealingHook",
    "MaskCriterion",
    "MaskDecoder",
    "MeanIoUMetric",
    "MixedCrop",
    "PanopticMetric",
    "PascalVOC",
    "RandomScale",
    "SegmentationDataset",
    "SegmentationFolder",
    "SemanticModel",
    "SemanticSegmentor",
    "Window",
]
