"""Segmentation models on Perception Encoder backbones. Importing this package registers their names with mmengine."""

from segmentation.datasets import ADE20K, SegmentationDataset, SegmentationFolder
from segmentation.labels import LabelError, LabelFormat
from segmentation.loading import LoadSegmentation
from segmentation.metrics import MeanIoUMetric
from segmentation.transforms import MixedCrop

__all__ = [
    "ADE20K",
    "LabelError",
    "LabelFormat",
    "LoadSegmentation",
    "MeanIoUMetric",
    "MixedCrop",
    "SegmentationDataset",
    "SegmentationFolder",
]
