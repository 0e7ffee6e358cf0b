"""Weights of the encoders: find them, read any layout they travel in, load strictly, report."""

from pe_spatial.backbones.weights.layouts import Layout, to_detectron2, to_official, to_timm, unwrap
from pe_spatial.backbones.weights.loading import (
    check_values,
    fitting_variants,
    load_state_dict,
    load_weights,
    read_encoder,
)
from pe_spatial.backbones.weights.source import FOLDER_VARIABLE, find
from pe_spatial.common.tensors import WeightsError, read_tensor_file, write_tensor_file
