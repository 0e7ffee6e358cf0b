"""Samples, loaders, datasets and batches. Importing this package registers their names with mmengine."""

from .dataset import DenseDataset, seeded
from .images import ImageFolder, find_images
from .loading import (
    LoadDepth,
    LoadFrames,
    LoadImage,
    LoadInstances,
    LoadLabelMap,
    UnreadableFile,
    decode_mask,
    encode_mask,
    read_image,
    to_image,
)
from .preprocessor import DensePreprocessor
from .sample import PackSample
from .sampler import Draw, DrawSampler
from .transforms import FixedSizeCrop, SanitizeInstances, boxes_of_masks

__all__ = [
    "DenseDataset",
    "DensePreprocessor",
    "Draw",
    "DrawSampler",
    "FixedSizeCrop",
    "ImageFolder",
    "LoadDepth",
    "LoadFrames",
    "LoadImage",
    "LoadInstances",
    "LoadLabelMap",
    "PackSample",
    "SanitizeInstances",
    "UnreadableFile",
    "boxes_of_masks",
    "decode_mask",
    "encode_mask",
    "find_images",
    "read_image",
    "seeded",
    "to_image",
]
