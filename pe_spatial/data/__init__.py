"""Samples, loaders, datasets and batches. Importing this package registers their names with mmengine."""

from .dataset import DenseDataset, seeded
from .loading import (
    LoadDepth,
    LoadFrames,
    LoadImage,
    LoadInstances,
    LoadLabelMap,
    UnreadableFile,
    read_image,
    to_image,
)
from .preprocessor import DensePreprocessor
from .sample import PackSample
from .sampler import Draw, DrawSampler

__all__ = [
    "DenseDataset",
    "DensePreprocessor",
    "Draw",
    "DrawSampler",
    "LoadDepth",
    "LoadFrames",
    "LoadImage",
    "LoadInstances",
    "LoadLabelMap",
    "PackSample",
    "UnreadableFile",
    "read_image",
    "seeded",
    "to_image",
]
