"""Segmentation models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

from segmentation.datasets import (
    ADE20K,
    Cityscapes,
    COCOStuff,
    PascalVOC,
    SegmentationDataset,
    SegmentationFolder,
)
from segmentation.labels import LabelError, LabelFormat
from segmentation.loading import LoadSegmentation
from segmentation.metrics import MeanIoUMetric
from segmentation.panoptic import CocoPanoptic, InstanceLabels, LoadInstanceLabels, LoadPanoptic
from segmentation.transforms import MixedCrop

__all__ = [
    "ADE20K",
    "COCOStuff",
    "Cityscapes",
    "CocoPanoptic",
    "InstanceLabels",
    "LabelError",
    "LabelFormat",
    "LoadInstanceLabels",
    "LoadPanoptic",
    "LoadSegmentation",
    "MeanIoUMetric",
    "MixedCrop",
    "PascalVOC",
    "SegmentationDataset",
    "SegmentationFolder",
]
