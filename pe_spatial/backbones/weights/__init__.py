"""Weights of the encoders: find them, read any layout they travel in, load strictly, report."""

from pe_spatial.backbones.weights.files import WeightsError, read_tensor_file, write_tensor_file
from pe_spatial.backbones.weights.layouts import Layout, recognise, to_detectron2, to_official, to_timm, unwrap
from pe_spatial.backbones.weights.loading import WeightsReport, expected_shapes, load_state_dict, load_weights
from pe_spatial.backbones.weights.source import find

__all__ = [
    "Layout",
    "WeightsError",
    "WeightsReport",
    "expected_shapes",
    "find",
    "load_state_dict",
    "load_weights",
    "read_tensor_file",
    "recognise",
    "to_detectron2",
    "to_official",
    "to_timm",
    "unwrap",
    "write_tensor_file",
]
